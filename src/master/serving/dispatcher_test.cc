#include "master/serving/dispatcher.h"

#include <gtest/gtest.h>

#include "common/random.h"
#include "master/serving/fake_fleet_testing.h"

namespace fathom::master {
namespace {

class DispatcherTest : public testing::Test {
 protected:
  DispatcherTest() : dispatcher_(&fleet_, &clock_, /*seed=*/1) {
    auto model = std::make_shared<ServedModelInfo>();
    model->name = "m";
    model_ = model;
    fleet_.OnChange([this](FleetNews news) { dispatcher_.OnFleetChange(news); });
  }

  Dispatcher::Handle Enqueue(int64_t cost, int name, uint64_t tenant = 1) {
    return dispatcher_.Enqueue({.model = model_,
                                .tenant_hash = tenant,
                                .cost = cost,
                                .grant = [this, name](Placement placement) {
                                  granted_.push_back(name);
                                  placements_.push_back(std::move(placement));
                                }});
  }

  FakeFleet fleet_;
  FakeClock clock_;
  ModelPtr model_;
  Dispatcher dispatcher_;
  std::vector<int> granted_;
  std::vector<Placement> placements_;
};

TEST_F(DispatcherTest, WaitsForAWorkerAndLeavesInOrder) {
  Enqueue(10, 1);
  Enqueue(10, 2);
  EXPECT_EQ(dispatcher_.queue_length(), 2u);
  EXPECT_EQ(dispatcher_.Obstacle(*model_), RouteObstacle::kNoWorker);
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_)});
  EXPECT_EQ(granted_, (std::vector<int>{1, 2}));
}

TEST_F(DispatcherTest, CreditIsNeverExceededAndComesBack) {
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_, /*credit=*/25)});
  Enqueue(10, 1);
  Enqueue(10, 2);
  Enqueue(10, 3);
  EXPECT_EQ(granted_, (std::vector<int>{1, 2}));
  placements_.front().Reset();
  EXPECT_EQ(granted_, (std::vector<int>{1, 2, 3}));
}

TEST_F(DispatcherTest, ModelsWaitForTheirOwnWorkersAlone) {
  auto other = std::make_shared<ServedModelInfo>();
  other->name = "other";
  other->pool = "cv";
  const auto enqueue = [&](const ModelPtr& model, int name) {
    dispatcher_.Enqueue({.model = model, .cost = 10, .grant = [this, name](Placement placement) {
                           granted_.push_back(name);
                           placements_.push_back(std::move(placement));
                         }});
  };
  WorkerInfo stray = FakeFleet::ReadyWorker("b", *other);  // has the model and is of no pool
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_), stray});
  enqueue(other, 1);
  enqueue(model_, 2);
  EXPECT_EQ(granted_, (std::vector<int>{2}));
  EXPECT_EQ(dispatcher_.Obstacle(*other), RouteObstacle::kNoWorker);
  EXPECT_EQ(fleet_.backlog("other"), 10);
  EXPECT_EQ(fleet_.backlog("m"), 0);
  stray.labels["pool"] = "cv";
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_), stray});
  EXPECT_EQ(granted_, (std::vector<int>{2, 1}));
  EXPECT_EQ(placements_.back().worker().id, "b");
  EXPECT_EQ(fleet_.backlog("other"), 0);
}

TEST_F(DispatcherTest, ASuspectHasAWorkerThatGetsNothingNew) {
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_), FakeFleet::ReadyWorker("b", *model_)});
  const auto enqueue = [&](int name, bool suspect) {
    dispatcher_.Enqueue({.model = model_,
                         .tenant_hash = 1,
                         .cost = 10,
                         .again = suspect,
                         .suspect = suspect,
                         .grant = [this, name](Placement placement) {
                           granted_.push_back(name);
                           placements_.push_back(std::move(placement));
                         }});
  };
  enqueue(1, true);
  enqueue(2, true);
  EXPECT_EQ(granted_, (std::vector<int>{1, 2}));
  EXPECT_NE(placements_[0].worker().id, placements_[1].worker().id);
  enqueue(3, false);
  enqueue(4, true);  // comes from a lost worker: before the new one
  EXPECT_EQ(granted_.size(), 2u);
  placements_[0].ClearSuspect();
  EXPECT_EQ(granted_, (std::vector<int>{1, 2, 4}));
  EXPECT_EQ(placements_[2].worker().id, placements_[0].worker().id);
  placements_[1].Reset();
  EXPECT_EQ(granted_, (std::vector<int>{1, 2, 4, 3}));
  EXPECT_NE(placements_[3].worker().id, placements_[0].worker().id);
}

TEST_F(DispatcherTest, ASmallOneDoesNotPassALargeOne) {
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_, 100)});
  Enqueue(60, 1);
  Enqueue(60, 2);
  Enqueue(1, 3);
  EXPECT_EQ(granted_, std::vector<int>{1});
  placements_.front().Reset();
  EXPECT_EQ(granted_, (std::vector<int>{1, 2, 3}));
}

TEST_F(DispatcherTest, RemovingTheFrontLetsTheNextOneGo) {
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_, 100)});
  Enqueue(60, 1);
  const auto blocked = Enqueue(60, 2);
  Enqueue(1, 3);
  dispatcher_.Remove(blocked);
  EXPECT_EQ(granted_, (std::vector<int>{1, 3}));
  dispatcher_.Remove(blocked);  // twice is once
}

TEST_F(DispatcherTest, APlacementOfAWorkerThatIsGoneIsHarmless) {
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_, 100)});
  Enqueue(60, 1);
  fleet_.SetWorkers({});
  Enqueue(60, 2);
  placements_.clear();
  EXPECT_EQ(granted_, std::vector<int>{1});
  fleet_.SetWorkers({FakeFleet::ReadyWorker("b", *model_, 100)});
  EXPECT_EQ(placements_.front().worker().id, "b");
}

TEST_F(DispatcherTest, AnAvoidedWorkerComesBackAfterItsTime) {
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_)});
  dispatcher_.Avoid({"a", "1"}, absl::Seconds(1));
  Enqueue(1, 1);
  EXPECT_TRUE(granted_.empty());
  clock_.Advance(absl::Seconds(1));
  dispatcher_.Pump();
  EXPECT_EQ(granted_, std::vector<int>{1});
}

TEST_F(DispatcherTest, AWorkerThatTellsOfThePrefixGetsIt) {
  std::vector<WorkerInfo> workers;
  for (const char* id : {"a", "b", "c"}) {
    workers.push_back(FakeFleet::ReadyWorker(id, *model_));
    workers.back().models[0].kv_scope = "scope";
    workers.back().models[0].kv_block_tokens = 4;
  }
  fleet_.SetWorkers(workers);
  const std::vector<TokenId> tokens(40, 7);
  const std::string salt(kCacheSaltBytes, 's');
  CacheUpdate update{.resync_begins = true, .resync_ends = true};
  ExtendNames(MakePrefixScope(salt, "scope", kNoAdapter), tokens, 4, 10, &update.stored);
  dispatcher_.OnCacheUpdate({"b", "1"}, update);
  dispatcher_.OnCacheUpdate({"nobody", "1"}, update);
  const auto ask = [&] {
    dispatcher_.Enqueue({.model = model_,
                         .cost = 1,
                         .prompt = PromptBlocks(tokens, salt),
                         .grant = [this](Placement p) { placements_.push_back(std::move(p)); }});
    return placements_.back().cached_tokens();
  };
  EXPECT_EQ(ask(), 39);
  EXPECT_EQ(placements_.back().worker().id, "b");
  // The tail is gone everywhere, so that what was sent is no longer expected either.
  dispatcher_.OnCacheUpdate({"b", "1"},
                            {.evicted = {update.stored.begin() + 5, update.stored.end()}});
  EXPECT_EQ(ask(), 20);
}

// Random arrivals, ends, losses: what a worker has never exceeds its credit, and all of it is
// granted in the end.
TEST_F(DispatcherTest, NeverOvercommitsUnderRandomTraffic) {
  constexpr int64_t kCredit = 200;
  SeededRandom random(11);
  fleet_.SetWorkers({FakeFleet::ReadyWorker("a", *model_, kCredit),
                     FakeFleet::ReadyWorker("b", *model_, kCredit)});
  std::map<int, int64_t> cost;
  for (int step = 0; step < 5000; ++step) {
    if (random.Next() % 2 == 0) {
      cost[step] = 1 + static_cast<int64_t>(random.Next() % 90);
      Enqueue(cost[step], step, random.Next() % 4);
    } else if (!placements_.empty()) {
      const size_t victim = random.Next() % placements_.size();
      // Moved out first: its end may grant more, which grows the vector.
      Placement gone = std::move(placements_[victim]);
      granted_.erase(granted_.begin() + static_cast<int64_t>(victim));
      placements_.erase(placements_.begin() + static_cast<int64_t>(victim));
    }
    std::map<std::string, int64_t> held;
    for (size_t i = 0; i < placements_.size(); ++i) {
      held[placements_[i].worker().id] += cost[granted_[i]];
    }
    for (const auto& [worker, sum] : held) ASSERT_LE(sum, kCredit);
  }
  while (!placements_.empty()) {
    const Placement gone = std::move(placements_.back());
    placements_.pop_back();
    granted_.pop_back();
  }
  EXPECT_EQ(dispatcher_.queue_length(), 0u);
}

}  // namespace
}  // namespace fathom::master
