#include "master/serving/router.h"

#include <gtest/gtest.h>

namespace fathom::master {
namespace {

WorkerInfo Worker(const std::string& id, int64_t credit = 1000) {
  WorkerInfo worker{.key = {id, "1"}, .state = WorkerState::kReady, .credit = credit};
  worker.models.push_back({.name = "m", .config_digest = "c", .tokenizer_digest = "t"});
  return worker;
}

RouteRequest Request(int64_t cost = 10) {
  return {.model = "m", .config_digest = "c", .tokenizer_digest = "t", .cost = cost};
}

TEST(RouterTest, SaysWhyNothingFits) {
  FleetSnapshot fleet;
  EXPECT_EQ(PickWorker(fleet, {}, Request()).obstacle, RouteObstacle::kNoWorker);

  fleet.workers = {Worker("a")};
  fleet.workers[0].models.clear();
  EXPECT_EQ(PickWorker(fleet, {}, Request()).obstacle, RouteObstacle::kModelNotLoaded);

  fleet.workers = {Worker("a")};
  fleet.workers[0].models[0].config_digest = "other";
  EXPECT_EQ(PickWorker(fleet, {}, Request()).obstacle, RouteObstacle::kModelDiffers);

  for (const WorkerState state :
       {WorkerState::kLoading, WorkerState::kDraining, WorkerState::kDead}) {
    fleet.workers = {Worker("a")};
    fleet.workers[0].state = state;
    const Route route = PickWorker(fleet, {}, Request());
    EXPECT_FALSE(route.worker.has_value());
    EXPECT_EQ(route.obstacle, RouteObstacle::kNotReady);
  }

  fleet.workers = {Worker("a", /*credit=*/0)};
  EXPECT_EQ(PickWorker(fleet, {}, Request()).obstacle, RouteObstacle::kBusy);
}

TEST(RouterTest, StaysWithinCredit) {
  FleetSnapshot fleet;
  fleet.workers = {Worker("a", 100)};
  LoadTable loads;
  loads[{"a", "1"}] = {.cost = 95, .requests = 1};
  EXPECT_EQ(PickWorker(fleet, loads, Request(10)).obstacle, RouteObstacle::kBusy);
  EXPECT_EQ(PickWorker(fleet, loads, Request(5)).worker, 0u);
}

TEST(RouterTest, ARequestDearerThanAllCreditGetsAnIdleWorker) {
  FleetSnapshot fleet;
  fleet.workers = {Worker("a", 100)};
  EXPECT_EQ(PickWorker(fleet, {}, Request(5000)).worker, 0u);
  LoadTable loads;
  loads[{"a", "1"}] = {.cost = 1, .requests = 1};
  EXPECT_FALSE(PickWorker(fleet, loads, Request(5000)).worker.has_value());
}

TEST(RouterTest, PicksTheLeastLoadedShare) {
  FleetSnapshot fleet;
  fleet.workers = {Worker("small", 100), Worker("large", 1000), Worker("full", 1000)};
  LoadTable loads;
  loads[{"small", "1"}] = {.cost = 50, .requests = 1};
  loads[{"large", "1"}] = {.cost = 100, .requests = 9};
  loads[{"full", "1"}] = {.cost = 1000, .requests = 1};
  EXPECT_EQ(PickWorker(fleet, loads, Request()).worker, 1u);
}

TEST(RouterTest, EqualSharesGoToTheShorterQueue) {
  FleetSnapshot fleet;
  fleet.workers = {Worker("a"), Worker("b")};
  fleet.workers[0].waiting = 3;
  EXPECT_EQ(PickWorker(fleet, {}, Request()).worker, 1u);
}

TEST(RouterTest, ARestartedWorkerIsAnotherWorker) {
  FleetSnapshot fleet;
  fleet.workers = {Worker("a", 100)};
  LoadTable loads;
  loads[{"a", "0"}] = {.cost = 100, .requests = 5};
  EXPECT_EQ(PickWorker(fleet, loads, Request()).worker, 0u);
}

TEST(RouterTest, AWorkerThatRefusedIsAvoidedForAWhile) {
  FleetSnapshot fleet;
  fleet.workers = {Worker("a")};
  LoadTable loads;
  loads[{"a", "1"}] = {.avoid_until_ns = 100};
  RouteRequest request = Request();
  request.now_ns = 99;
  EXPECT_FALSE(PickWorker(fleet, loads, request).worker.has_value());
  request.now_ns = 100;
  EXPECT_TRUE(PickWorker(fleet, loads, request).worker.has_value());
}

}  // namespace
}  // namespace fathom::master
