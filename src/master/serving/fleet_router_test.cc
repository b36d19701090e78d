#include "master/serving/fleet_router.h"

#include <gtest/gtest.h>

#include <numeric>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

constexpr int64_t kMsNs = 1'000'000;
constexpr ModelWanted kModel = {.name = "m", .config_digest = "c", .tokenizer_digest = "t"};

WorkerInfo Worker(const std::string& id, const std::string& scope = "scope") {
  WorkerInfo worker{.key = {id, "1"},
                    .state = WorkerState::kReady,
                    .figures = {.credit = 1'000'000,
                                .free_blocks = 1000,
                                .total_blocks = 1000,
                                .prefill_tokens_per_second = 10'000},
                    .heard_ns = 1};
  worker.models.push_back({.name = "m",
                           .config_digest = "c",
                           .tokenizer_digest = "t",
                           .kv_block_tokens = 16,
                           .kv_scope = scope});
  return worker;
}

class FleetRouterTest : public testing::Test {
 protected:
  void Set(std::vector<WorkerInfo> workers) {
    auto fleet = std::make_shared<FleetSnapshot>();
    fleet->version = ++version_;
    fleet->workers = std::move(workers);
    EXPECT_TRUE(router_.Refresh(std::move(fleet)));
  }
  RouteObstacle Obstacle(const ModelWanted& model = kModel) {
    PromptBlocks none;
    return router_.Pick(model, &none, 0, now_ns_).obstacle;
  }
  // A prompt of 100 blocks of its own.
  std::vector<TokenId> Prompt(int32_t first) const {
    std::vector<TokenId> tokens(1600);
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
  }
  // Sends it; returns the worker's id and what was expected of its cache.
  std::pair<std::string, int32_t> Send(const std::vector<TokenId>& tokens, char salt = 's') {
    PromptBlocks prompt(tokens, std::string(kCacheSaltBytes, salt));
    const FleetRouter::Decision decision = router_.Pick(kModel, &prompt, 10, now_ns_);
    EXPECT_EQ(decision.obstacle, RouteObstacle::kNone);
    router_.Assign(decision, &prompt, 10, now_ns_);
    sent_.push_back(decision);
    return {router_.KeyOf(decision.slot).id, decision.cached_tokens};
  }

  FleetRouter router_{7};
  uint64_t version_ = 0;
  int64_t now_ns_ = 10 * kMsNs;
  std::vector<FleetRouter::Decision> sent_;
};

TEST_F(FleetRouterTest, SaysWhyThereIsNoWorker) {
  EXPECT_EQ(Obstacle(), RouteObstacle::kNoWorker);
  Set({Worker("a")});
  EXPECT_EQ(Obstacle(), RouteObstacle::kNone);
  EXPECT_EQ(Obstacle({.name = "other"}), RouteObstacle::kModelNotLoaded);
  EXPECT_EQ(Obstacle({.name = "m", .config_digest = "x"}), RouteObstacle::kModelDiffers);
  EXPECT_EQ(Obstacle({.name = "m", .tokenizer_digest = "x"}), RouteObstacle::kModelDiffers);
  EXPECT_EQ(Obstacle({.name = "m"}), RouteObstacle::kNone) << "any";
  for (const WorkerState state :
       {WorkerState::kLoading, WorkerState::kDraining, WorkerState::kDead}) {
    WorkerInfo worker = Worker("a");
    worker.state = state;
    Set({worker});
    EXPECT_EQ(Obstacle(), RouteObstacle::kNotReady);
  }
  Set({});
  EXPECT_EQ(Obstacle(), RouteObstacle::kNoWorker);
}

TEST_F(FleetRouterTest, TheSamePromptGoesWhereItWas) {
  std::vector<WorkerInfo> workers;
  for (int i = 0; i < 20; ++i) workers.push_back(Worker(absl::StrCat("w", i)));
  Set(workers);
  const std::vector<TokenId> tokens = Prompt(0);
  const auto [first, cached] = Send(tokens);
  EXPECT_EQ(cached, 0);
  now_ns_ += 1000 * kMsNs;  // its queue has drained
  EXPECT_EQ(Send(tokens), std::pair(first, 1599));
  EXPECT_EQ(Send(tokens, 'x').second, 0) << "another tenant's";
}

TEST_F(FleetRouterTest, AnIdleWorkersLastStepsSayNothing) {
  std::vector<WorkerInfo> workers = {Worker("a"), Worker("b")};
  Set(workers);
  const std::vector<TokenId> tokens = Prompt(0);
  const std::string first = Send(tokens).first;
  now_ns_ += 1000 * kMsNs;
  for (WorkerInfo& worker : workers) {
    worker.heard_ns = now_ns_;
    if (worker.key.id == first) worker.figures.step_seconds = 0.1F;  // it was a long prompt
  }
  Set(workers);
  EXPECT_EQ(Send(tokens).first, first);
}

TEST_F(FleetRouterTest, ABurstIsSpreadBeforeAnyHeartbeat) {
  Set({Worker("a"), Worker("b"), Worker("c"), Worker("d")});
  std::map<std::string, int> sent;
  for (int i = 0; i < 40; ++i) ++sent[Send(Prompt(i * 10'000)).first];
  for (const auto& [id, count] : sent) EXPECT_NEAR(count, 10, 2) << id;
}

TEST_F(FleetRouterTest, WhatAHeartbeatReportsIsNotCountedTwice) {
  Set({Worker("a"), Worker("b")});
  const std::string first = Send(Prompt(0)).first;
  EXPECT_NE(Send(Prompt(10'000)).first, first);
  EXPECT_NE(Send(Prompt(20'000)).first, Send(Prompt(30'000)).first);
  // Both tell of an empty queue, a while after the last send; then a has some.
  now_ns_ += 100 * kMsNs;
  std::vector<WorkerInfo> workers = {Worker("a"), Worker("b")};
  workers[0].heard_ns = workers[1].heard_ns = now_ns_;
  workers[0].figures.queued_tokens = 2000;
  Set(workers);
  EXPECT_EQ(Send(Prompt(40'000)).first, "b") << "2000 against none, not 5200 against 3200";
  EXPECT_EQ(Send(Prompt(50'000)).first, "b") << "2000 against 1600";
  EXPECT_EQ(Send(Prompt(60'000)).first, "a");
}

TEST_F(FleetRouterTest, CountsOutliveAWorkerAndItsNumberIsUsedAgain) {
  Set({Worker("a")});
  Send(Prompt(0));
  Set({});
  EXPECT_EQ(router_.index().num_copies(), 0u) << "a worker's cache goes with it";
  Set({Worker("b")});
  Send(Prompt(0));
  EXPECT_NE(sent_[0].slot, sent_[1].slot);
  router_.Release(sent_[0], 10);
  Set({Worker("b"), Worker("c")});
  EXPECT_EQ(router_.SlotOf({"c", "1"}), sent_[0].slot);
  EXPECT_EQ(router_.SlotOf({"a", "1"}), std::nullopt);
  router_.Release(sent_[1], 10);
}

TEST_F(FleetRouterTest, ARestartedWorkerIsAnotherWorker) {
  WorkerInfo worker = Worker("a");
  worker.figures.credit = 10;
  Set({worker});
  Send(Prompt(0));
  EXPECT_EQ(router_.Pick(kModel, std::make_unique<PromptBlocks>().get(), 10, now_ns_).obstacle,
            RouteObstacle::kBusy);
  worker.key.incarnation = "2";
  Set({worker});
  EXPECT_EQ(Send(Prompt(0)).second, 0);
}

TEST_F(FleetRouterTest, WorkersThatNameBlocksOtherwiseKeepApart) {
  Set({Worker("a", "bf16"), Worker("b", "fp8"), Worker("c", "")});
  EXPECT_EQ(router_.NamingsOf(kModel).size(), 2u);
  const std::vector<TokenId> tokens = Prompt(0);
  const std::vector<Hash128> names = [&] {
    PromptBlocks prompt(tokens, std::string(kCacheSaltBytes, 's'));
    const auto span = prompt.Names({"fp8", 16});
    return std::vector<Hash128>(span.begin(), span.end());
  }();
  router_.index().Store(*router_.SlotOf({"b", "1"}), names);
  EXPECT_EQ(Send(tokens), std::pair(std::string("b"), 1599));
}

TEST_F(FleetRouterTest, AModelsCreditIsNotAnothers) {
  WorkerInfo worker = Worker("a");
  worker.models[0].figures = ModelFigures{.credit = 10};
  worker.models.push_back(worker.models[0]);
  worker.models[1].name = "n";
  Set({worker});
  constexpr ModelWanted kOther = {.name = "n", .config_digest = "c", .tokenizer_digest = "t"};
  Send(Prompt(0));
  PromptBlocks prompt;
  EXPECT_EQ(router_.Pick(kModel, &prompt, 10, now_ns_).obstacle, RouteObstacle::kBusy);
  EXPECT_EQ(router_.Pick(kOther, &prompt, 10, now_ns_).obstacle, RouteObstacle::kNone);
  // What may crash it crashes both, and what refuses work refuses it for both.
  router_.SetSuspect(sent_[0].slot);
  EXPECT_EQ(router_.Pick(kOther, &prompt, 10, now_ns_).obstacle, RouteObstacle::kBusy);
  router_.ClearSuspect(sent_[0].slot);
  router_.Avoid({"a", "1"}, now_ns_ + 1);
  EXPECT_EQ(router_.Pick(kOther, &prompt, 10, now_ns_).obstacle, RouteObstacle::kBusy);
  now_ns_ += 1;
  EXPECT_EQ(router_.Pick(kOther, &prompt, 10, now_ns_).obstacle, RouteObstacle::kNone);
  router_.Release(sent_[0], 10);
  EXPECT_EQ(router_.Pick(kModel, &prompt, 10, now_ns_).obstacle, RouteObstacle::kNone);
}

TEST_F(FleetRouterTest, WhereAModelIsBeingUnloadedItRunsOnlyIfItMust) {
  WorkerInfo leaving = Worker("a");
  leaving.models[0].phase = ModelPhase::kUnloading;
  Set({leaving, Worker("b")});
  for (int i = 0; i < 8; ++i) EXPECT_EQ(Send(Prompt(i * 10'000)).first, "b");
  WorkerInfo loading = Worker("b");
  loading.models[0].phase = ModelPhase::kLoading;
  Set({leaving, loading});
  EXPECT_EQ(Send(Prompt(0)).first, "a");
  Set({loading});
  EXPECT_EQ(Obstacle(), RouteObstacle::kModelNotLoaded);
}

TEST_F(FleetRouterTest, AWorkerThatTookNothingOnIsAvoidedUntilItIsHeard) {
  Set({Worker("a")});
  const auto heard = [this](int64_t at_ns) {
    WorkerInfo worker = Worker("a");
    worker.heard_ns = at_ns;
    Set({worker});
  };
  router_.AvoidUntilHeard({"a", "1"}, now_ns_, now_ns_ + 100 * kMsNs);
  EXPECT_EQ(Obstacle(), RouteObstacle::kBusy);
  now_ns_ += 10 * kMsNs;
  heard(now_ns_);
  EXPECT_EQ(Obstacle(), RouteObstacle::kNone);
  // Heard since it was asked, it takes nothing on all the same.
  router_.AvoidUntilHeard({"a", "1"}, now_ns_ - 1, now_ns_ + 100 * kMsNs);
  heard(now_ns_ + 10 * kMsNs);
  EXPECT_EQ(Obstacle(), RouteObstacle::kBusy);
  now_ns_ += 100 * kMsNs;
  EXPECT_EQ(Obstacle(), RouteObstacle::kNone);
}

TEST_F(FleetRouterTest, AnOlderSnapshotIsNoNews) {
  Set({Worker("a")});
  auto old = std::make_shared<FleetSnapshot>();
  EXPECT_FALSE(router_.Refresh(old));
  EXPECT_EQ(Obstacle(), RouteObstacle::kNone);
}

}  // namespace
}  // namespace fathom::master
