// What a master hears, and when, of a worker that has had nothing to do or has too much to say; the
// master is one by hand.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "absl/time/clock.h"
#include "master/fleet/link_messages.h"
#include "worker/hand_master_testing.h"
#include "worker/link_client.h"

namespace fathom::worker {
namespace {

constexpr int kBusyMs = 20;  // as HandMaster's Welcome says
constexpr int kIdleMs = 16 * kBusyMs;

int64_t BeatsOf(const HandMaster& master, int next_ms) {
  return std::count_if(master.heard.begin(), master.heard.end(),
                       [next_ms](const v1::WorkerControl& said) {
                         return said.has_heartbeat() && said.heartbeat().next_ms() == next_ms;
                       });
}

TEST(LinkRestTest, AMasterKnowsThatItsWorkerIsBusyBeforeTheWorkerCanFallSilent) {
  HandMaster hand;
  ScriptedEngine engine;
  bool done = false;
  LinkClient client(TestOptions({hand.port}));
  client.OnModel(engine.Ready());
  WorkerPort port = engine.Port();
  // The tick after the first request never comes to its heartbeats.
  port.look = [&](int64_t, const auto&) {
    engine.WaitUntil([&] { return engine.submitted.empty() || done; });
  };
  ASSERT_TRUE(client.Start(std::move(port)).ok());
  ASSERT_TRUE(hand.WaitUntil([&] { return BeatsOf(hand, kIdleMs) > 0; }));
  hand.Set([&] { EXPECT_EQ(BeatsOf(hand, kBusyMs), 0); });
  hand.Submit(master::ToMessage(TestSubmission("r1")));
  EXPECT_TRUE(hand.WaitUntil([&] { return BeatsOf(hand, kBusyMs) > 0; }));
  engine.Set([&] { done = true; });
}

TEST(LinkRestTest, AWorkerThatRestsNowAndThenSendsFewHeartbeats) {
  HandMaster hand;
  ScriptedEngine engine;
  const auto client = StartClient(TestOptions({hand.port}), engine);
  ASSERT_TRUE(hand.WaitUntil([&] { return BeatsOf(hand, kIdleMs) > 0; }));
  const absl::Time start = absl::Now();
  constexpr size_t kRequests = 200;
  for (size_t i = 1; i <= kRequests; ++i) {
    const std::string id = "r" + std::to_string(i);
    hand.Submit(master::ToMessage(TestSubmission(id)));
    ASSERT_TRUE(engine.WaitUntil([&] { return engine.submitted.size() == i; }));
    client->OnStep({TestOutput(id, 1, 0, {5}, FinishReason::kStop)});
    ASSERT_TRUE(hand.WaitUntil([&] { return hand.received.size() == 1 + 2 * i; }));
  }
  // Only after a heartbeat of an idle worker is there another before its time.
  const int64_t periods = (absl::Now() - start) / absl::Milliseconds(kBusyMs);
  hand.Set([&] { EXPECT_LE(BeatsOf(hand, kBusyMs) + BeatsOf(hand, kIdleMs), 2 * periods + 4); });
}

TEST(LinkRestTest, AWorkerThatStoodStillSaysSo) {
  ScriptedEngine engine;
  FakeClock clock;
  clock.Advance(absl::Seconds(1));
  LinkClientOptions options = TestOptions({});
  options.clock = &clock;
  int ticks = 0;
  LinkClient client(std::move(options));
  WorkerPort port = engine.Port();
  // Time goes on in the ticks alone; after the third it has stood still.
  port.look = [&](int64_t, const auto&) {
    engine.Set([&] { clock.Advance(absl::Milliseconds(++ticks == 3 ? 1234 : 25)); });
  };
  ::testing::internal::CaptureStderr();
  ASSERT_TRUE(client.Start(std::move(port)).ok());
  EXPECT_TRUE(engine.WaitUntil([&] { return ticks > 50; }));
  client.Stop();
  const std::string log = ::testing::internal::GetCapturedStderr();
  const size_t found = log.find("the worker stood still labels.milliseconds=1234 ");
  ASSERT_NE(found, std::string::npos) << log;
  EXPECT_EQ(log.find("stood still", found + 20), std::string::npos) << log;
}

TEST(LinkRestTest, AMasterThatCannotBeToldOfAllModelsIsDialledAgain) {
  HandMaster first;
  HandMaster second;
  second.Set([&] { second.welcomes = false; });
  ScriptedEngine engine;
  const auto client = StartClient(TestOptions({first.port, second.port}), engine);
  // What is condemned is told after the models, on a link that is lost by then.
  v1::MasterControl condemned;
  condemned.mutable_condemned()->set_fingerprint(std::string(32, 'f'));
  condemned.mutable_condemned()->set_remaining_ms(60'000);
  first.Send(condemned);
  v1::MasterControl load;
  load.mutable_load()->set_model("other");
  first.Send(load);
  ASSERT_TRUE(engine.WaitUntil([&] { return !engine.loads.empty(); }));
  for (const char* name : {"big", "bigger", "biggest"}) {
    ModelNews news{TestState(name, v1::MODEL_PHASE_FAILED), std::nullopt};
    news.state.set_error(std::string(size_t{3} << 20, 'e'));
    client->OnModel(std::move(news));
  }
  second.Set([&] { second.welcomes = true; });
  const auto hellos = [&] {
    return std::count_if(second.heard.begin(), second.heard.end(),
                         [](const v1::WorkerControl& said) { return said.has_hello(); });
  };
  EXPECT_TRUE(second.WaitUntil([&] { return hellos() > 1; }));
}

}  // namespace
}  // namespace fathom::worker
