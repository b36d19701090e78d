// What has crashed a worker before runs alone, whichever masters send to the next one; and what a
// worker says that it ran when it crashes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "master/fleet/link_messages.h"
#include "master/fleet/link_server.h"
#include "worker/hand_master_testing.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

master::Submission Named(const std::string& id, int32_t crashes = 0) {
  master::Submission submission = TestSubmission(id);
  submission.stop.max_tokens = 100;
  submission.resume_context = "proof";
  submission.fingerprint = std::string(32, id.front());
  submission.crashes = crashes;
  return submission;
}

// A master, and what a worker's last words were to it.
class Listening : public Waitable {
 public:
  explicit Listening(const std::string& id) {
    master::LinkServerOptions options;
    options.master_id = id;
    options.insecure = true;
    options.heartbeat = absl::Milliseconds(50);
    server = *master::LinkServer::Start(std::move(options));
    watch.emplace(*server);
    server->OnLastWords([this](const std::vector<master::LastRun>& runs) {
      With([&] {
        for (const auto& of : mine) lost_before += of->lost.size();
        for (const master::LastRun& run : runs) heard.emplace_back(run.fingerprint[0], run.crashes);
      });
    });
  }

  std::shared_ptr<RecordingListener> Submit(const master::WorkerKey& worker,
                                            master::Submission submission) {
    auto listener = std::make_shared<RecordingListener>();
    With([&] { mine.push_back(listener); });
    EXPECT_TRUE(server->Submit(worker, std::move(submission), listener).ok());
    EXPECT_TRUE(listener->WaitUntil(
        [&] { return !listener->accepted.empty() || !listener->rejected.empty(); }));
    return listener;
  }

  std::vector<std::pair<char, int32_t>> heard;
  size_t lost_before = 0;  // losses told before the last words
  std::vector<std::shared_ptr<RecordingListener>> mine;
  std::unique_ptr<master::LinkServer> server;
  std::optional<FleetWatch> watch;
};

class LinkAloneTest : public testing::Test {
 protected:
  LinkAloneTest() {
    client_ = StartClient(TestOptions({a_.server->port(), b_.server->port()}), engine_);
    const auto info = a_.watch->WaitForReady();
    EXPECT_TRUE(info.has_value());
    if (info) key_ = info->key;
    EXPECT_TRUE(b_.watch->WaitForReady());
  }
  static bool Taken(const std::shared_ptr<RecordingListener>& listener) {
    if (!listener->rejected.empty()) {
      EXPECT_EQ(listener->rejected[0].code(), absl::StatusCode::kAborted);
      EXPECT_EQ(listener->retry_after, absl::Milliseconds(50));
    }
    return !listener->accepted.empty();
  }
  void PutOut(const std::string& id, int32_t first, size_t count,
              FinishReason finish = FinishReason::kNone) {
    client_->OnStep({TestOutput(id, 1, first, std::vector<TokenId>(count, 1), finish)});
  }

  ScriptedEngine engine_;
  Listening a_{"a"};
  Listening b_{"b"};
  master::WorkerKey key_;
  std::unique_ptr<LinkClient> client_;  // goes first
};

TEST_F(LinkAloneTest, TwoMastersSuspectsNeverShareAWorker) {
  const auto of_a = a_.Submit(key_, Named("p", 1));
  ASSERT_TRUE(Taken(of_a));
  EXPECT_FALSE(Taken(b_.Submit(key_, Named("i", 1))));
  EXPECT_FALSE(Taken(b_.Submit(key_, Named("n"))));
  EXPECT_FALSE(Taken(a_.Submit(key_, Named("m"))));
  PutOut("p", 0, 8);
  ASSERT_TRUE(of_a->WaitUntil([&] { return of_a->tokens.size() == 8; }));
  EXPECT_TRUE(Taken(b_.Submit(key_, Named("j", 1))));
  EXPECT_FALSE(Taken(a_.Submit(key_, Named("q", 1)))) << "now the other master's is alone";
  PutOut("j", 0, 1, FinishReason::kStop);
  ASSERT_TRUE(b_.mine.back()->WaitUntil([&] { return !b_.mine.back()->finishes.empty(); }));
  EXPECT_TRUE(Taken(a_.Submit(key_, Named("r", 1))));
  EXPECT_EQ(engine_.submitted.size(), 3u) << "the engine saw nothing of the others";
}

TEST_F(LinkAloneTest, WhatRunsAlreadyGoesOnBesideIt) {
  const auto before = b_.Submit(key_, Named("n"));
  ASSERT_TRUE(Taken(before));
  EXPECT_TRUE(Taken(a_.Submit(key_, Named("p", 1))));
  PutOut("n", 0, 20);
  EXPECT_TRUE(before->WaitUntil([&] { return before->tokens.size() == 20; }));
  EXPECT_FALSE(Taken(b_.Submit(key_, Named("m"))));
}

TEST_F(LinkAloneTest, EveryMasterHearsWhatRanBeforeItHearsOfTheLoss) {
  ASSERT_TRUE(Taken(b_.Submit(key_, Named("n"))));
  ASSERT_TRUE(Taken(a_.Submit(key_, Named("m"))));
  PutOut("m", 0, 1, FinishReason::kStop);
  ASSERT_TRUE(Taken(a_.Submit(key_, Named("p", 1))));
  client_->SayCrashed();
  for (Listening* master : {&a_, &b_}) {
    EXPECT_TRUE(master->WaitUntil([&] { return master->heard.size() == 2; }));
    EXPECT_THAT(master->heard, ElementsAre(std::pair('p', 1), std::pair('n', 0)));
    EXPECT_EQ(master->lost_before, 0u);
    const auto listener = master->mine.back();
    ASSERT_TRUE(listener->WaitUntil([&] { return !listener->lost.empty(); }));
    EXPECT_THAT(listener->kinds, ElementsAre(master::LossKind::kCrash));
  }
}

TEST_F(LinkAloneTest, OnesThatHaveShownThatTheyWereNotTheCauseAreNamedAsSuch) {
  const auto of_a = a_.Submit(key_, Named("p", 1));
  PutOut("p", 0, 8);
  ASSERT_TRUE(of_a->WaitUntil([&] { return of_a->tokens.size() == 8; }));
  client_->OnDead(absl::InternalError("the device fell off the bus"));
  EXPECT_TRUE(b_.WaitUntil([&] { return b_.heard.size() == 1; }));
  EXPECT_THAT(b_.heard, ElementsAre(std::pair('p', 0)));
}

// Nobody has said yet that it crashes, and a heartbeat that is due sees it.
TEST_F(LinkAloneTest, AHeartbeatThatIsQuickerThanTheCrashsOwnTellsItToo) {
  ASSERT_TRUE(Taken(a_.Submit(key_, Named("p", 1))));
  engine_.Set([this] { engine_.stats.state = EngineState::kDead; });
  for (Listening* master : {&a_, &b_}) {
    EXPECT_TRUE(master->watch->WaitForEmpty());
    EXPECT_TRUE(master->WaitUntil([&] {
      EXPECT_THAT(master->heard, ElementsAre(std::pair('p', 1)));
      return true;
    }));
  }
}

// What is on the wire for masters that know nothing of it.
TEST(LinkAloneWireTest, ItLooksLikeAFullWorkerAndNamelessWorkIsNotNamed) {
  HandMaster master;
  ScriptedEngine engine;
  const auto client = StartClient(TestOptions({master.port}), engine);
  master::Submission suspect = Named("p", 1);
  suspect.fingerprint.clear();
  master.Submit(master::ToMessage(suspect));
  master.Submit(master::ToMessage(TestSubmission("n")));
  v1::Rejected rejected;
  ASSERT_TRUE(master.WaitUntil([&] {
    for (const v1::WorkerData& data : master.received) {
      if (data.rejected_size() > 0) rejected = data.rejected(0);
    }
    return !rejected.request_id().empty();
  }));
  EXPECT_EQ(rejected.request_id(), "n");
  EXPECT_EQ(rejected.code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(rejected.alone());
  client->SayCrashed();
  std::vector<int> said;
  ASSERT_TRUE(master.WaitUntil([&] {
    bool dead = false;
    said.clear();
    for (const v1::WorkerControl& message : master.heard) {
      if (message.has_last_words()) said.push_back(message.last_words().runs_size());
      dead = dead || message.heartbeat().state() == v1::ENGINE_STATE_DEAD;
    }
    return dead;
  }));
  EXPECT_FALSE(said.empty());
  EXPECT_THAT(said, Each(0)) << "that nothing with a name ran";
}

}  // namespace
}  // namespace fathom::worker
