#include "master/models/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;
using Phase = PlacementWorker::Phase;

constexpr int kMany = 100;

PlacementOrder Load(size_t worker, const std::string& model) { return {worker, model, true}; }
PlacementOrder Unload(size_t worker, const std::string& model) { return {worker, model, false}; }

TEST(PlacementTest, AModelGetsItsReplicasWhereRoomIs) {
  const std::vector<PlacementModel> models = {{.name = "a", .memory_bytes = 10, .replicas = 2}};
  const std::vector<PlacementWorker> workers = {{.free_memory_bytes = 9},
                                                {.free_memory_bytes = 50},
                                                {.free_memory_bytes = 20},
                                                {.takes_work = false, .free_memory_bytes = 50},
                                                {.free_memory_bytes = 10}};
  const PlacementPlan plan = PlanPlacement(models, workers, kMany);
  EXPECT_THAT(plan.orders, ElementsAre(Load(4, "a"), Load(2, "a"))) << "the tightest fit first";
  EXPECT_THAT(plan.without_room, IsEmpty());
}

TEST(PlacementTest, PoolsKeepApart) {
  const std::vector<PlacementModel> models = {{.name = "a", .pool = "nlp", .replicas = -1},
                                              {.name = "b", .pool = "cv", .replicas = 1}};
  const std::vector<PlacementWorker> workers = {
      {.pool = "nlp"}, {.pool = "other"}, {.pool = "nlp"}};
  const PlacementPlan plan = PlanPlacement(models, workers, kMany);
  EXPECT_THAT(plan.orders, UnorderedElementsAre(Load(0, "a"), Load(2, "a")));
  EXPECT_THAT(plan.without_room, ElementsAre(1));
}

TEST(PlacementTest, ModelsSpreadOverWorkersAndThoseWithoutAnyComeFirst) {
  const std::vector<PlacementModel> models = {{.name = "a", .memory_bytes = 1, .replicas = 3},
                                              {.name = "b", .memory_bytes = 1, .replicas = 1}};
  std::vector<PlacementWorker> workers(3, {.free_memory_bytes = 100});
  workers[0].held = {{"a", Phase::kReady}};
  EXPECT_THAT(PlanPlacement(models, workers, 1).orders, ElementsAre(Load(1, "b")));
  EXPECT_THAT(PlanPlacement(models, workers, kMany).orders, ElementsAre(Load(1, "b"), Load(2, "a")))
      << "one load a worker";
}

TEST(PlacementTest, LoadsUnderWayAreWaitedFor) {
  const std::vector<PlacementModel> models = {{.name = "a", .memory_bytes = 1, .replicas = 2},
                                              {.name = "b", .memory_bytes = 1, .replicas = 1}};
  std::vector<PlacementWorker> workers(2, {.free_memory_bytes = 100});
  workers[0].held = {{"a", Phase::kComing}};
  workers[1].held = {{"a", Phase::kComing}};
  PlacementPlan plan = PlanPlacement(models, workers, kMany);
  EXPECT_THAT(plan.orders, IsEmpty());
  EXPECT_THAT(plan.without_room, IsEmpty()) << "b has room, later";
  workers[1].held = {{"a", Phase::kReady}};
  EXPECT_THAT(PlanPlacement(models, workers, 1).orders, IsEmpty());
  EXPECT_THAT(PlanPlacement(models, workers, 2).orders, ElementsAre(Load(1, "b")));
}

TEST(PlacementTest, SurplusAndRetiredModelsGo) {
  const std::vector<PlacementModel> models = {{.name = "a", .replicas = 1},
                                              {.name = "old", .wanted = false}};
  std::vector<PlacementWorker> workers(3, {.free_memory_bytes = 100});
  workers[0].held = {{"a", Phase::kReady}, {"old", Phase::kReady}};
  workers[1].held = {{"a", Phase::kReady}, {"old", Phase::kGoing}, {"foreign", Phase::kReady}};
  workers[2].held = {{"old", Phase::kFailed}};
  workers[1].free_memory_bytes = 50;
  EXPECT_THAT(PlanPlacement(models, workers, kMany).orders,
              UnorderedElementsAre(Unload(0, "old"), Unload(1, "a"), Unload(2, "old")));
  workers[0].held = {{"a", Phase::kComing}};
  EXPECT_THAT(PlanPlacement(models, workers, kMany).orders, ElementsAre(Unload(2, "old")))
      << "a has one that is ready";
}

TEST(PlacementTest, AWorkerThatLeavesIsReplaced) {
  const std::vector<PlacementModel> models = {{.name = "a", .replicas = 1}};
  std::vector<PlacementWorker> workers(2);
  workers[0] = {.takes_work = false, .held = {{"a", Phase::kReady}}};
  EXPECT_THAT(PlanPlacement(models, workers, kMany).orders, ElementsAre(Load(1, "a")));
}

TEST(PlacementTest, WhereItFailedItIsNotTriedAtOnce) {
  const std::vector<PlacementModel> models = {{.name = "a", .replicas = 1}};
  std::vector<PlacementWorker> workers(1);
  workers[0].held = {{"a", Phase::kFailed}};
  PlacementPlan plan = PlanPlacement(models, workers, kMany);
  EXPECT_THAT(plan.orders, IsEmpty());
  EXPECT_THAT(plan.without_room, IsEmpty());
  workers[0].held[0].no_room = true;
  EXPECT_THAT(PlanPlacement(models, workers, kMany).without_room, ElementsAre(0));
  workers[0].held[0].try_again = true;
  EXPECT_THAT(PlanPlacement(models, workers, kMany).orders, ElementsAre(Load(0, "a")));
  workers.emplace_back();
  workers[0].held[0].try_again = false;
  EXPECT_THAT(PlanPlacement(models, workers, kMany).orders, ElementsAre(Load(1, "a")));
}

TEST(PlacementTest, OneThatGoesMayStay) {
  const std::vector<PlacementModel> models = {{.name = "a", .memory_bytes = 10, .replicas = 1}};
  std::vector<PlacementWorker> workers(2, {.free_memory_bytes = 100});
  workers[1] = {.free_memory_bytes = 0, .held = {{"a", Phase::kGoing}}};
  EXPECT_THAT(PlanPlacement(models, workers, kMany).orders, ElementsAre(Load(1, "a")));
}

// Whatever is wanted of whatever there is: orders keep to the rules, and what they lead to needs
// no more orders.
TEST(PlacementTest, OrdersKeepToMemoryAndComeToAnEnd) {
  std::mt19937 random(11);
  const auto draw = [&](int from, int to) {
    return std::uniform_int_distribution<int>(from, to)(random);
  };
  for (int round = 0; round < 500; ++round) {
    std::vector<PlacementModel> models(draw(1, 6));
    for (size_t m = 0; m < models.size(); ++m) {
      models[m] = {.name = absl::StrCat("m", m),
                   .pool = draw(0, 2) == 0 ? "p" : "",
                   .memory_bytes = draw(1, 40),
                   .replicas = draw(-1, 4),
                   .wanted = draw(0, 5) != 0};
    }
    std::vector<PlacementWorker> workers(draw(0, 6));
    for (PlacementWorker& worker : workers) {
      worker = {.pool = draw(0, 1) == 0 ? "p" : "q",
                .takes_work = draw(0, 5) != 0,
                .free_memory_bytes = draw(0, 100)};
      for (const PlacementModel& model : models) {
        if (draw(0, 4) == 0) worker.held.push_back({model.name, static_cast<Phase>(draw(0, 3))});
      }
    }
    const int limit = draw(1, 3);
    bool settled = false;
    for (int step = 0; step < 60 && !settled; ++step) {
      const PlacementPlan plan = PlanPlacement(models, workers, limit);
      std::map<size_t, int> loads;
      int coming = 0;
      for (const PlacementWorker& worker : workers) {
        for (const auto& held : worker.held) coming += held.phase == Phase::kComing ? 1 : 0;
      }
      int fresh = 0;
      for (const PlacementOrder& order : plan.orders) {
        PlacementWorker& worker = workers[order.worker];
        const auto model = std::find_if(models.begin(), models.end(), [&](const PlacementModel& m) {
          return m.name == order.model;
        });
        const auto held = std::find_if(worker.held.begin(), worker.held.end(),
                                       [&](const auto& h) { return h.model == order.model; });
        if (!order.load) {
          ASSERT_NE(held, worker.held.end());
          worker.free_memory_bytes += model->memory_bytes;
          worker.held.erase(held);
          continue;
        }
        ASSERT_TRUE(worker.takes_work && model->wanted);
        ASSERT_TRUE(model->pool.empty() || model->pool == worker.pool);
        ASSERT_EQ(++loads[order.worker], 1);
        if (held != worker.held.end()) {
          ASSERT_EQ(held->phase, Phase::kGoing);
          held->phase = Phase::kReady;
          continue;
        }
        ++fresh;
        worker.free_memory_bytes -= model->memory_bytes;
        ASSERT_GE(worker.free_memory_bytes, 0);
        worker.held.push_back({order.model, Phase::kComing});
      }
      ASSERT_TRUE(fresh == 0 || coming + fresh <= limit);
      settled = plan.orders.empty() && coming == 0;
      for (PlacementWorker& worker : workers) {
        for (auto& held : worker.held) {
          if (held.phase == Phase::kComing) held.phase = Phase::kReady;
        }
      }
    }
    EXPECT_TRUE(settled) << round;
    for (const PlacementModel& model : models) {
      int64_t having = 0;
      for (const PlacementWorker& worker : workers) {
        if (!worker.takes_work) continue;
        having += std::count_if(worker.held.begin(), worker.held.end(), [&](const auto& held) {
          return held.model == model.name && held.phase == Phase::kReady;
        });
      }
      const int64_t most = !model.wanted ? 0 : model.replicas < 0 ? INT64_MAX : model.replicas;
      EXPECT_LE(having, most);
    }
  }
}

}  // namespace
}  // namespace fathom::master
