#include "master/serving/router.h"

#include <gtest/gtest.h>

#include <map>

#include "common/random.h"

namespace fathom::master {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;

// A worker of 40k prompt tokens a second with plenty of room.
RouteCandidate Candidate(WorkerSlot slot, int64_t credit = 1'000'000) {
  return {.slot = slot,
          .free_blocks = 10'000,
          .total_blocks = 10'000,
          .block_tokens = 16,
          .prefill_tokens_per_second = 40'000,
          .tokens_per_second = 1000,
          .step_seconds = 0.004F,
          .credit = credit};
}

// Of which nothing but its credit is known.
RouteCandidate Stranger(WorkerSlot slot, int64_t credit = 1'000'000) {
  return {.slot = slot, .credit = credit};
}

class RouterTest : public testing::Test {
 protected:
  void Add(const RouteCandidate& candidate) {
    table_.candidates.push_back(candidate);
    table_.nothing = RouteObstacle::kModelNotLoaded;
    loads_.resize(std::max<size_t>(loads_.size(), candidate.slot + 1));
  }
  // The picked slot; fails where there is none.
  WorkerSlot Pick(RouteRequest request = {.cost = 10, .prompt_tokens = 4000}) {
    const Route route = PickWorker(table_, loads_, request);
    EXPECT_EQ(route.obstacle, RouteObstacle::kNone);
    return route.candidate == nullptr ? kWorkerSlotsMax : route.candidate->slot;
  }
  RouteObstacle Obstacle(const RouteRequest& request = {.cost = 10}) {
    return PickWorker(table_, loads_, request).obstacle;
  }

  RouteTable table_;
  std::vector<WorkerLoad> loads_;
};

TEST_F(RouterTest, SaysWhyNothingFits) {
  EXPECT_EQ(Obstacle(), RouteObstacle::kNoWorker);
  table_.nothing = RouteObstacle::kModelNotLoaded;
  EXPECT_EQ(Obstacle(), RouteObstacle::kModelNotLoaded);
  Add(Candidate(0));
  for (const RouteObstacle obstacle : {RouteObstacle::kModelDiffers, RouteObstacle::kNotReady}) {
    table_.candidates[0].obstacle = obstacle;
    EXPECT_EQ(Obstacle(), obstacle);
  }
  table_.candidates[0] = Candidate(0, /*credit=*/0);
  EXPECT_EQ(Obstacle(), RouteObstacle::kBusy);
}

TEST_F(RouterTest, StaysWithinCredit) {
  Add(Candidate(0, 100));
  loads_[0] = {.cost = 95, .requests = 1};
  EXPECT_EQ(Obstacle({.cost = 10}), RouteObstacle::kBusy);
  EXPECT_EQ(Pick({.cost = 5}), 0);
}

TEST_F(RouterTest, ARequestDearerThanAllCreditGetsAnIdleWorker) {
  Add(Candidate(0, 100));
  EXPECT_EQ(Pick({.cost = 5000}), 0);
  loads_[0] = {.cost = 1, .requests = 1};
  EXPECT_EQ(Obstacle({.cost = 5000}), RouteObstacle::kBusy);
}

TEST_F(RouterTest, AWorkerThatRefusedIsAvoidedForAWhile) {
  Add(Candidate(0));
  loads_[0].avoid_until_ns = 100;
  EXPECT_EQ(Obstacle({.now_ns = 99}), RouteObstacle::kBusy);
  EXPECT_EQ(Obstacle({.now_ns = 100}), RouteObstacle::kNone);
}

TEST_F(RouterTest, WhereNothingIsKnownTheLeastLoadedShareOfTwoIsTaken) {
  Add(Stranger(0, 100));
  Add(Stranger(1, 1000));
  Add(Stranger(2, 1000));
  loads_[0] = {.cost = 50, .requests = 1};
  loads_[1] = {.cost = 100, .requests = 9};
  loads_[2] = {.cost = 1000, .requests = 1};  // full
  EXPECT_EQ(Pick(), 1);
}

TEST_F(RouterTest, EqualSharesGoToTheShorterQueue) {
  Add(Stranger(0));
  Add(Stranger(1));
  table_.candidates[0].waiting = 3;
  EXPECT_EQ(Pick(), 1);
}

TEST_F(RouterTest, EqualWorkersAreDrawnAlikeAndTheWorstNever) {
  SeededRandom random(5);
  for (WorkerSlot slot = 0; slot < 10; ++slot) Add(Stranger(slot));
  loads_[9].cost = 1000;
  std::map<WorkerSlot, int> picked;
  for (int i = 0; i < 9000; ++i) ++picked[Pick({.cost = 10, .draw = random.Next()})];
  EXPECT_EQ(picked.count(9), 0u) << "of any two, the other one is less loaded";
  for (WorkerSlot slot = 0; slot < 9; ++slot) EXPECT_NEAR(picked[slot], 1000, 150);
}

TEST_F(RouterTest, AnIdleWorkerWithThePrefixWins) {
  for (WorkerSlot slot = 0; slot < 5; ++slot) Add(Candidate(slot));
  const std::vector<PrefixMatch> matches = {{.worker = 1, .blocks = 50},
                                            {.worker = 3, .blocks = 200}};
  const Route route =
      PickWorker(table_, loads_, {.cost = 10, .prompt_tokens = 4000, .matches = matches});
  ASSERT_NE(route.candidate, nullptr);
  EXPECT_EQ(route.candidate->slot, 3);
  EXPECT_EQ(route.cached_tokens, 3200);
}

TEST_F(RouterTest, AHitLeavesATokenToCompute) {
  Add(Candidate(0));
  const std::vector<PrefixMatch> matches = {{.worker = 0, .blocks = 250}};
  EXPECT_EQ(PickWorker(table_, loads_, {.prompt_tokens = 4000, .matches = matches}).cached_tokens,
            3999);
}

TEST_F(RouterTest, ALongQueueOutweighsThePrefix) {
  Add(Candidate(0));
  Add(Candidate(1));
  const std::vector<PrefixMatch> matches = {{.worker = 0, .blocks = 200}};
  const RouteRequest request = {.cost = 10, .prompt_tokens = 4000, .matches = matches};
  table_.candidates[0].queued_tokens = 4000;
  EXPECT_EQ(Pick(request), 0) << "3200 tokens are worth a wait";
  table_.candidates[0].queued_tokens = 20'000;
  EXPECT_EQ(Pick(request), 1);
}

TEST_F(RouterTest, WhatWasSentSinceTheHeartbeatCounts) {
  Add(Candidate(0));
  Add(Candidate(1));
  loads_[0].unreported_tokens = 8000;
  EXPECT_EQ(Pick(), 1);
}

TEST_F(RouterTest, AQueueDrainsUntilTheNextHeartbeat) {
  Add(Candidate(0));
  Add(Candidate(1));
  table_.candidates[0].queued_tokens = 8000;  // 0.2 s
  table_.candidates[1].queued_tokens = 800;
  const std::vector<PrefixMatch> matches = {{.worker = 0, .blocks = 200}};
  RouteRequest request = {.cost = 10, .prompt_tokens = 4000, .matches = matches};
  EXPECT_EQ(Pick(request), 1);
  request.now_ns = kSecondNs / 4;
  EXPECT_EQ(Pick(request), 0);
}

TEST_F(RouterTest, AFasterWorkerMayHaveTheLongerQueue) {
  Add(Candidate(0));
  Add(Candidate(1));
  table_.candidates[0].queued_tokens = 9000;
  table_.candidates[1].queued_tokens = 4000;
  table_.candidates[1].prefill_tokens_per_second = 10'000;
  EXPECT_EQ(Pick(), 0);
}

TEST_F(RouterTest, AWorkerThatHasComputedNothingYetIsLikeTheOthers) {
  Add(Candidate(0));
  Add(Candidate(1));
  table_.candidates[0].queued_tokens = 2000;
  table_.candidates[1].prefill_tokens_per_second = 0;
  EXPECT_EQ(Pick(), 1);
}

TEST_F(RouterTest, ShortBlocksAreAWait) {
  Add(Candidate(0));
  Add(Candidate(1));
  table_.candidates[0].free_blocks = 10;
  table_.candidates[1].queued_tokens = 4000;
  EXPECT_EQ(Pick(), 1);
}

TEST_F(RouterTest, LongStepsOutweighAShortPrefixAndNoLongOne) {
  Add(Candidate(0));
  Add(Candidate(1));
  table_.candidates[0].step_seconds = 0.008F;  // 128 ms more in the reckoning, as for 2560 tokens
  const std::vector<PrefixMatch> small = {{.worker = 0, .blocks = 40}};
  EXPECT_EQ(Pick({.prompt_tokens = 4000, .matches = small}), 1);
  const std::vector<PrefixMatch> large = {{.worker = 0, .blocks = 200}};
  EXPECT_EQ(Pick({.prompt_tokens = 4000, .matches = large}), 0);
}

TEST_F(RouterTest, AMatchOfAWorkerThatIsNoCandidateIsPassedOver) {
  Add(Candidate(0));
  const std::vector<PrefixMatch> matches = {{.worker = 4000, .blocks = 50}};
  EXPECT_EQ(Pick({.prompt_tokens = 4000, .matches = matches}), 0);
}

}  // namespace
}  // namespace fathom::master
