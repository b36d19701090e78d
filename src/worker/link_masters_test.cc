// Workers find masters by what masters tell of each other, and obey the newest leader's epoch.

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <optional>

#include "master/fleet/link_server.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using master::ClusterNews;
using master::LinkServer;

std::string Address(int port) { return "127.0.0.1:" + std::to_string(port); }

// A master whose news the test sets.
class ToldMaster {
 public:
  explicit ToldMaster(const std::string& id) {
    master::LinkServerOptions options;
    options.master_id = id;
    options.insecure = true;
    options.heartbeat = absl::Milliseconds(50);
    options.cluster = [this] {
      const std::lock_guard lock(mutex_);
      return news_;
    };
    server = *LinkServer::Start(std::move(options));
    watch.emplace(*server);
  }
  std::string address() const { return Address(server->port()); }
  void Tell(ClusterNews news) {
    const std::lock_guard lock(mutex_);
    news_ = std::move(news);
  }

 private:
  std::mutex mutex_;
  ClusterNews news_;  // protected by mutex_

 public:
  std::unique_ptr<LinkServer> server;
  std::optional<FleetWatch> watch;
};

class LinkMastersTest : public testing::Test {
 protected:
  LinkMastersTest() : a_("a"), b_("b") { TellAll({&a_, &b_}); }

  static void TellAll(const std::vector<ToldMaster*>& masters, uint64_t epoch = 1) {
    ClusterNews news{.epoch = epoch};
    for (const ToldMaster* master : masters) news.masters.push_back(master->address());
    std::sort(news.masters.begin(), news.masters.end());
    for (ToldMaster* master : masters) {
      news.address = master->address();
      master->Tell(news);
    }
  }
  // Knows the first by a name that is none of its addresses.
  void StartWorker() {
    LinkClientOptions options = TestOptions({});
    options.masters = {"localhost:" + std::to_string(a_.server->port())};
    client_ = std::make_unique<LinkClient>(std::move(options));
    ASSERT_TRUE(engine_.Serve(*client_).ok());
  }

  ScriptedEngine engine_;
  ToldMaster a_;
  ToldMaster b_;
  std::unique_ptr<LinkClient> client_;  // goes first
};

TEST_F(LinkMastersTest, OneNameFindsAllAndLinksEachOnce) {
  StartWorker();
  EXPECT_TRUE(a_.watch->WaitForReady());
  EXPECT_TRUE(b_.watch->WaitForReady());
  absl::SleepFor(absl::Milliseconds(200));  // time to do something foolish
  EXPECT_EQ(client_->linked(), 2);
}

TEST_F(LinkMastersTest, AMasterThatComesLaterIsDialledAndOneThatWentForgotten) {
  StartWorker();
  ASSERT_TRUE(a_.watch->WaitForReady());
  ASSERT_TRUE(b_.watch->WaitForReady());
  ToldMaster c("c");
  TellAll({&b_, &c});
  a_.watch.reset();
  a_.server.reset();
  EXPECT_TRUE(c.watch->WaitForReady());
  EXPECT_TRUE(c.watch->WaitUntil([&] { return client_->linked() == 2; }));
  c.watch.reset();
  c.server.reset();
  client_.reset();  // before what it is linked to
}

TEST_F(LinkMastersTest, OrdersOfAnEarlierLeaderAreRefused) {
  StartWorker();
  ASSERT_TRUE(a_.watch->WaitForReady());
  ASSERT_TRUE(b_.watch->WaitForReady());
  TellAll({&a_, &b_}, 5);
  ClusterNews stale{.epoch = 4};
  b_.Tell(stale);
  // The worker learns the epoch from orders and greetings.
  ASSERT_TRUE(a_.server->Drain("w1").ok());
  ASSERT_TRUE(engine_.WaitUntil([&] { return engine_.leaves == 1; }));
  ASSERT_TRUE(b_.server->Drain("w1").ok());
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_TRUE(engine_.WaitUntil([&] { return engine_.leaves == 1; }));
  ASSERT_TRUE(a_.server->Drain("w1").ok());
  EXPECT_TRUE(engine_.WaitUntil([&] { return engine_.leaves == 2; }));
}

}  // namespace
}  // namespace fathom::worker
