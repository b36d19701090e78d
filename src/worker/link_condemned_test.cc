// What one master condemns reaches the others by way of the workers they share.

#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "master/fleet/link_server.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using master::LinkServer;

std::string Name(char c) { return std::string(32, c); }

// A master that remembers what it hears.
class HearingMaster : public Waitable {
 public:
  explicit HearingMaster(const std::string& id) {
    master::LinkServerOptions options;
    options.master_id = id;
    options.insecure = true;
    options.heartbeat = absl::Milliseconds(50);
    server = *LinkServer::Start(std::move(options));
    watch.emplace(*server);
    server->OnCondemned([this](const std::string& name, absl::Duration remaining) {
      With([&] {
        ++times;
        heard.insert(name);
        EXPECT_GT(remaining, absl::Seconds(30));
        EXPECT_LE(remaining, absl::Minutes(1));
      });
    });
  }

  int times = 0;
  std::set<std::string> heard;
  std::unique_ptr<LinkServer> server;
  std::optional<FleetWatch> watch;
};

class LinkCondemnedTest : public testing::Test {
 protected:
  std::unique_ptr<LinkClient> StartWorker(const std::string& id,
                                          const std::vector<HearingMaster*>& masters) {
    std::vector<int> ports;
    for (const HearingMaster* master : masters) ports.push_back(master->server->port());
    auto client = StartClient(TestOptions(ports, TestHello(id)), engine_);
    for (HearingMaster* master : masters) EXPECT_TRUE(master->watch->WaitForReady(id));
    return client;
  }

  ScriptedEngine engine_;
  HearingMaster a_{"a"};
  HearingMaster b_{"b"};
};

TEST_F(LinkCondemnedTest, ItReachesAllMastersOnceAndNotItsOwn) {
  const auto first = StartWorker("w1", {&a_, &b_});
  const auto second = StartWorker("w2", {&a_, &b_});
  a_.server->Condemn(Name('x'), absl::Minutes(1));
  b_.server->Condemn(Name('y'), absl::Minutes(1));
  EXPECT_TRUE(b_.WaitUntil([&] { return b_.heard.contains(Name('x')); }));
  EXPECT_TRUE(a_.WaitUntil([&] { return a_.heard.contains(Name('y')); }));
  absl::SleepFor(absl::Milliseconds(200));  // time for an echo
  EXPECT_TRUE(a_.WaitUntil([&] { return a_.times == 1; }));
  EXPECT_TRUE(b_.WaitUntil([&] { return b_.times == 1; }));
}

TEST_F(LinkCondemnedTest, AMasterThatComesLaterHearsWhatStillHolds) {
  HearingMaster late("late");
  const int port = late.server->port();
  late.watch.reset();
  late.server.reset();
  LinkClientOptions options = TestOptions({a_.server->port(), port});
  const auto worker = StartClient(std::move(options), engine_);
  ASSERT_TRUE(a_.watch->WaitForReady());
  a_.server->Condemn(Name('x'), absl::Minutes(1));
  // It has been told once this comes, for the stream is one.
  ASSERT_TRUE(a_.server->Drain("w1").ok());
  ASSERT_TRUE(engine_.WaitUntil([&] { return engine_.leaves == 1; }));
  master::LinkServerOptions again;
  again.insecure = true;
  again.port = port;
  late.server = *LinkServer::Start(std::move(again));
  std::atomic<bool> heard = false;
  late.server->OnCondemned([&](const std::string& name, absl::Duration) {
    if (name == Name('x')) heard = true;
  });
  EXPECT_TRUE(engine_.WaitUntil([&] { return heard.load(); }));
}

// All workers may be gone when their killer is found out.
TEST_F(LinkCondemnedTest, AWorkerThatComesLaterCarriesItOn) {
  a_.server->Condemn(Name('x'), absl::Minutes(1));
  const auto worker = StartWorker("w1", {&a_, &b_});
  EXPECT_TRUE(b_.WaitUntil([&] { return b_.heard.contains(Name('x')); }));
}

TEST_F(LinkCondemnedTest, ItGoesOnOverMastersToWorkersOfTheirOwn) {
  HearingMaster c("c");
  const auto left = StartWorker("w1", {&a_, &b_});
  const auto right = StartWorker("w2", {&b_, &c});
  a_.server->Condemn(Name('x'), absl::Minutes(1));
  EXPECT_TRUE(c.WaitUntil([&] { return c.heard.contains(Name('x')); }));
}

}  // namespace
}  // namespace fathom::worker
