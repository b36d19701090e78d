#include "master/api/catalog_status.h"

#include <gtest/gtest.h>

namespace fathom::master {
namespace {

class CatalogStatusTest : public testing::Test {
 protected:
  void Add(const std::string& id, std::optional<ModelPhase> phase, const std::string& pool = "") {
    WorkerInfo& worker = fleet_.workers.emplace_back();
    worker.key.id = id;
    worker.state = WorkerState::kReady;
    worker.free_memory_bytes = int64_t{5} << 20;
    if (!pool.empty()) worker.labels["pool"] = pool;
    if (!phase) return;
    ServedModel& model = worker.models.emplace_back();
    model.name = "chat@2";
    model.phase = *phase;
    if (*phase == ModelPhase::kFailed) model.failure = absl::NotFoundError("no such directory");
    if (*phase == ModelPhase::kLoading) {
      model.bytes_done = 43;
      model.bytes_total = 100;
    }
  }
  // "state: detail"
  std::string State(const std::string& absent = "") {
    const v1::CatalogVersion status = StatusOf(row_, fleet_, absent);
    return status.detail().empty() ? status.state() : status.state() + ": " + status.detail();
  }

  ModelVersionRow row_{.name = "chat", .version = 2, .replicas = 2, .memory_bytes = 10 << 20};
  FleetSnapshot fleet_;
};

TEST_F(CatalogStatusTest, SaysHowFarAVersionIs) {
  EXPECT_EQ(State(), "waiting: no worker is linked");
  Add("a", std::nullopt);
  EXPECT_EQ(State(), "waiting: no worker has 10 MiB free; the most is 5 MiB");
  row_.memory_bytes = 1 << 20;
  EXPECT_EQ(State(), "waiting: not placed yet");
  Add("b", ModelPhase::kFailed);
  EXPECT_EQ(State(), "failed: on b: no such directory");
  Add("c", ModelPhase::kLoading);
  EXPECT_EQ(State(), "loading: 0 of 2 ready, 43% on c");
  fleet_.workers[2].models[0].phase = ModelPhase::kReady;
  EXPECT_EQ(State(), "ready: 1 of 2 ready: failed on b: no such directory");
  EXPECT_EQ(State("no such file"), "failed: this master cannot read it: no such file");
  Add("d", ModelPhase::kReady);
  EXPECT_EQ(State(), "ready");
  row_.replicas = ModelVersionRow::kEverywhere;
  Add("e", ModelPhase::kWarming);
  EXPECT_EQ(State(), "loading: 2 ready, on e");
  row_.retired = true;
  EXPECT_EQ(State(), "unloading");
  fleet_.workers.clear();
  EXPECT_EQ(State(), "retired");
}

TEST_F(CatalogStatusTest, WorkersOfOtherPoolsDoNotCount) {
  row_.pool = "nlp";
  Add("a", std::nullopt, "cv");
  EXPECT_EQ(State(), "waiting: no worker of the pool 'nlp' is linked");
}

TEST_F(CatalogStatusTest, ARouteSaysWhereItLedBefore) {
  const v1::RouteStatus status =
      StatusOf({.name = "chat", .targets = "chat@2=95,chat@3=5", .previous = "chat@2=100"});
  ASSERT_EQ(status.targets_size(), 2);
  EXPECT_EQ(status.targets(1).model(), "chat@3");
  EXPECT_EQ(status.targets(1).weight(), 5);
  EXPECT_EQ(status.previous_size(), 1);
  EXPECT_EQ(StatusOf(RouteRow{.name = "x", .targets = "tiny=100"}).previous_size(), 0);
}

}  // namespace
}  // namespace fathom::master
