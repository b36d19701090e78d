#include "master/serving/model_orders.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

constexpr int64_t kSecondNs = 1'000'000'000;

class ModelOrdersTest : public testing::Test {
 protected:
  ModelOrdersTest() {
    orders_.BeginTerm(0);
    now_ns_ = 3 * kSecondNs;
  }

  static WorkerInfo Worker(const std::string& id, int64_t free = 1000) {
    return {.key = {id, id + "-life"}, .state = WorkerState::kReady, .free_memory_bytes = free};
  }
  static ModelVersionRow Version(int64_t version, int64_t replicas = 1) {
    return {.name = "chat", .version = version, .replicas = replicas, .memory_bytes = 100};
  }
  void Show(size_t worker, const std::string& model, ModelPhase phase) {
    std::vector<ServedModel>& models = fleet_.workers[worker].models;
    std::erase_if(models, [&](const ServedModel& m) { return m.name == model; });
    models.emplace_back().name = model;
    models.back().phase = phase;
  }
  void Gone(size_t worker, const std::string& model) {
    std::erase_if(fleet_.workers[worker].models,
                  [&](const ServedModel& m) { return m.name == model; });
  }
  // "+worker model" and "-worker model".
  std::vector<std::string> Look() {
    const ModelOrders::Decision decision = orders_.Decide(rows_, fleet_, now_ns_);
    std::vector<std::string> out;
    for (const ModelOrder& order : decision.orders) {
      out.push_back(absl::StrCat(order.load ? "+" : "-", order.worker.id, " ", order.model));
    }
    for (const ModelVersionRow& row : decision.replaced) {
      out.push_back(absl::StrCat("chat@", row.version, " replaces ", row.replaces));
    }
    for (const RouteRow& route : decision.routes) {
      out.push_back(absl::StrCat(route.name, " -> ", route.pending));
    }
    return out;
  }
  static testing::Matcher<std::vector<std::string>> Only(const std::string& what) {
    return testing::ElementsAre(what);
  }

  ModelOrders orders_;
  CatalogRows rows_;
  FleetSnapshot fleet_;
  int64_t now_ns_ = 0;
};

TEST_F(ModelOrdersTest, AnOrderIsGivenOnceAndAgainWhenNothingComesOfIt) {
  rows_.versions = {Version(1)};
  fleet_.workers = {Worker("a"), Worker("b", 50)};
  EXPECT_THAT(Look(), Only("+a chat@1"));
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += 6 * kSecondNs;
  EXPECT_THAT(Look(), Only("+a chat@1")) << "it may never have come";
  Show(0, "chat@1", ModelPhase::kLoading);
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += 600 * kSecondNs;
  EXPECT_THAT(Look(), IsEmpty()) << "a load takes its time";
  Show(0, "chat@1", ModelPhase::kReady);
  EXPECT_THAT(Look(), IsEmpty());
  fleet_.workers[0] = Worker("c");
  EXPECT_THAT(Look(), Only("+c chat@1")) << "its worker is gone";
}

TEST_F(ModelOrdersTest, ANewLeaderLooksAroundFirst) {
  rows_.versions = {Version(1)};
  fleet_.workers = {Worker("a")};
  orders_.BeginTerm(now_ns_);
  EXPECT_THAT(Look(), IsEmpty());
  fleet_.workers.push_back(Worker("b"));
  Show(1, "chat@1", ModelPhase::kReady);
  now_ns_ += 3 * kSecondNs;
  EXPECT_THAT(Look(), IsEmpty()) << "b has it, and linked later";
}

TEST_F(ModelOrdersTest, MemoryOfWhatIsComingIsNotGivenTwice) {
  rows_.versions = {Version(1), Version(2)};
  fleet_.workers = {Worker("a", 150)};
  EXPECT_THAT(Look(), Only("+a chat@1"));
  Show(0, "chat@1", ModelPhase::kWarming);
  EXPECT_THAT(Look(), IsEmpty());
  Show(0, "chat@1", ModelPhase::kReady);
  fleet_.workers[0].free_memory_bytes = 50;
  EXPECT_THAT(Look(), IsEmpty());
  fleet_.workers[0].free_memory_bytes = 100;
  EXPECT_THAT(Look(), Only("+a chat@2"));
}

TEST_F(ModelOrdersTest, WhereALoadFailsItIsTriedAgainAfterAWhileThatDoubles) {
  rows_.versions = {Version(1)};
  fleet_.workers = {Worker("a")};
  EXPECT_THAT(Look(), Only("+a chat@1"));
  Show(0, "chat@1", ModelPhase::kLoading);
  EXPECT_THAT(Look(), IsEmpty());
  Show(0, "chat@1", ModelPhase::kFailed);
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += 9 * kSecondNs;
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += kSecondNs;
  EXPECT_THAT(Look(), Only("+a chat@1"));
  EXPECT_THAT(Look(), IsEmpty()) << "it still tells of the first time";
  Show(0, "chat@1", ModelPhase::kLoading);
  EXPECT_THAT(Look(), IsEmpty());
  Show(0, "chat@1", ModelPhase::kFailed);
  now_ns_ += 10 * kSecondNs;
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += 20 * kSecondNs;
  EXPECT_THAT(Look(), Only("+a chat@1"));
  fleet_.workers.push_back(Worker("b"));
  Show(0, "chat@1", ModelPhase::kLoading);
  EXPECT_THAT(Look(), IsEmpty());
  Show(0, "chat@1", ModelPhase::kFailed);
  EXPECT_THAT(Look(), Only("+b chat@1")) << "elsewhere at once";
}

TEST_F(ModelOrdersTest, ALoadThatFailsBetweenTwoLooksIsAFailureToo) {
  rows_.versions = {Version(1)};
  fleet_.workers = {Worker("a")};
  EXPECT_THAT(Look(), Only("+a chat@1"));
  const auto fail = [&](uint64_t number) {
    Show(0, "chat@1", ModelPhase::kFailed);
    fleet_.workers[0].models.back().failures = number;
  };
  fail(1);
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += 10 * kSecondNs;
  EXPECT_THAT(Look(), Only("+a chat@1"));
  now_ns_ += kSecondNs;
  EXPECT_THAT(Look(), IsEmpty()) << "it still tells of the first time";
  fail(2);
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += 19 * kSecondNs;
  EXPECT_THAT(Look(), IsEmpty()) << "twice as long now";
  // Nor does it keep others from the worker meanwhile.
  rows_.versions.push_back(Version(2));
  EXPECT_THAT(Look(), Only("+a chat@2"));
}

TEST_F(ModelOrdersTest, AModelDoesNotTakeOneWorkerAfterTheOtherWithIt) {
  rows_.versions = {Version(1)};
  for (int i = 0; i < 5; ++i) fleet_.workers.push_back(Worker(absl::StrCat("w", i)));
  const auto load_and_crash = [&] {
    Show(0, "chat@1", ModelPhase::kWarming);
    EXPECT_THAT(Look(), IsEmpty());
    fleet_.workers.erase(fleet_.workers.begin());
    EXPECT_THAT(Look(), IsEmpty()) << "it may be the cause";
  };
  EXPECT_THAT(Look(), Only("+w0 chat@1"));
  load_and_crash();
  now_ns_ += 10 * kSecondNs;
  EXPECT_THAT(Look(), Only("+w1 chat@1")) << "once more, for workers die of other things too";
  load_and_crash();
  now_ns_ += 599 * kSecondNs;
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += kSecondNs;
  EXPECT_THAT(Look(), Only("+w2 chat@1"));
  Show(0, "chat@1", ModelPhase::kReady);
  EXPECT_THAT(Look(), IsEmpty());
  fleet_.workers.erase(fleet_.workers.begin());
  EXPECT_THAT(Look(), Only("+w3 chat@1")) << "it served, and died of something else";
}

TEST_F(ModelOrdersTest, WorkersThatLeaveOrAreSilentWhileTheyLoadHaveNotCrashed) {
  rows_.versions = {Version(1, 2)};
  fleet_.workers = {Worker("a"), Worker("b"), Worker("c"), Worker("d")};
  EXPECT_THAT(Look(), SizeIs(2));
  for (const size_t worker : {0, 1}) Show(worker, "chat@1", ModelPhase::kLoading);
  EXPECT_THAT(Look(), IsEmpty());
  for (const size_t worker : {0, 1}) fleet_.workers[worker].state = WorkerState::kDraining;
  EXPECT_THAT(Look(), SizeIs(2)) << "others take their place";
  fleet_.workers.erase(fleet_.workers.begin(), fleet_.workers.begin() + 2);
  for (const size_t worker : {0, 1}) Show(worker, "chat@1", ModelPhase::kLoading);
  EXPECT_THAT(Look(), IsEmpty());

  const std::vector<WorkerInfo> silent = std::exchange(fleet_.workers, {Worker("e"), Worker("f")});
  EXPECT_THAT(Look(), IsEmpty()) << "it may have taken them with it";
  fleet_.workers.insert(fleet_.workers.end(), silent.begin(), silent.end());
  for (WorkerInfo& worker : fleet_.workers) worker.models.clear();
  now_ns_ += 10 * kSecondNs;
  EXPECT_THAT(Look(), SizeIs(2)) << "they are back";
}

TEST_F(ModelOrdersTest, ARetiredVersionGoesWhenAllMastersHaveHeard) {
  rows_.versions = {Version(1)};
  rows_.versions[0].retired = true;
  fleet_.workers = {Worker("a")};
  Show(0, "chat@1", ModelPhase::kReady);
  EXPECT_THAT(Look(), IsEmpty());
  now_ns_ += 4 * kSecondNs;
  EXPECT_THAT(Look(), Only("-a chat@1"));
  EXPECT_THAT(Look(), IsEmpty());
  Show(0, "chat@1", ModelPhase::kUnloading);
  now_ns_ += 60 * kSecondNs;
  EXPECT_THAT(Look(), IsEmpty()) << "what runs there runs out";
  rows_.versions[0].retired = false;
  EXPECT_THAT(Look(), Only("+a chat@1")) << "back before it went";
}

TEST_F(ModelOrdersTest, AReplacementWaitsForAsManyAsServe) {
  rows_.versions = {Version(1, 2), Version(2, 2)};
  rows_.versions[1].replaces = 1;
  fleet_.workers = {Worker("a"), Worker("b")};
  Show(0, "chat@1", ModelPhase::kReady);
  Show(1, "chat@1", ModelPhase::kReady);
  EXPECT_THAT(Look(), SizeIs(2));
  Show(0, "chat@2", ModelPhase::kReady);
  Show(1, "chat@2", ModelPhase::kLoading);
  EXPECT_THAT(Look(), IsEmpty());
  Show(1, "chat@2", ModelPhase::kReady);
  EXPECT_THAT(Look(), Only("chat@2 replaces 1"));
}

TEST_F(ModelOrdersTest, AReplacementThatFindsNoRoomTakesOverWithFewer) {
  rows_.versions = {Version(1, 2), Version(2, 2)};
  rows_.versions[1].replaces = 1;
  fleet_.workers = {Worker("a", 100), Worker("b", 0)};
  Show(0, "chat@1", ModelPhase::kReady);
  Show(1, "chat@1", ModelPhase::kReady);
  EXPECT_THAT(Look(), Only("+a chat@2"));
  Show(0, "chat@2", ModelPhase::kReady);
  fleet_.workers[0].free_memory_bytes = 0;
  EXPECT_THAT(Look(), Only("chat@2 replaces 1"));
}

TEST_F(ModelOrdersTest, AReplacementThatFailsSomewhereDoesNotTakeOver) {
  rows_.versions = {Version(1, 2), Version(2, 2)};
  rows_.versions[1].replaces = 1;
  fleet_.workers = {Worker("a"), Worker("b")};
  for (const size_t worker : {0, 1}) Show(worker, "chat@1", ModelPhase::kReady);
  EXPECT_THAT(Look(), SizeIs(2));
  Show(0, "chat@2", ModelPhase::kReady);
  Show(1, "chat@2", ModelPhase::kFailed);
  ServedModel& failed = fleet_.workers[1].models.back();
  failed.failures = 1;
  failed.failure = absl::NotFoundError("no such file");
  EXPECT_THAT(Look(), IsEmpty()) << "as many are to serve as before";
  failed.failure = absl::ResourceExhaustedError("it does not fit");
  EXPECT_THAT(Look(), Only("chat@2 replaces 1"));
}

TEST_F(ModelOrdersTest, ARouteWaitsForAllThatItIsToLeadTo) {
  rows_.versions = {Version(1), Version(2)};
  rows_.routes = {{.name = "chat", .targets = "chat@3=100", .pending = "chat@1=90,chat@2=10"}};
  fleet_.workers = {Worker("a"), Worker("b")};
  Show(0, "chat@1", ModelPhase::kReady);
  Show(1, "chat@2", ModelPhase::kWarming);
  EXPECT_THAT(Look(), IsEmpty());
  Show(1, "chat@2", ModelPhase::kReady);
  EXPECT_THAT(Look(), Only("chat -> chat@1=90,chat@2=10"));
}

TEST_F(ModelOrdersTest, NothingReplacesWhatServesBeforeItServes) {
  rows_.versions = {Version(1), Version(2)};
  rows_.versions[1].replaces = 1;
  fleet_.workers = {Worker("a", 0)};
  Show(0, "chat@1", ModelPhase::kReady);
  EXPECT_THAT(Look(), IsEmpty());
  Show(0, "chat@2", ModelPhase::kFailed);
  EXPECT_THAT(Look(), IsEmpty());
  Show(0, "chat@1", ModelPhase::kFailed);
  Show(0, "chat@2", ModelPhase::kReady);
  EXPECT_THAT(Look(), Only("chat@2 replaces 1")) << "what is broken waits for nobody";
}

}  // namespace
}  // namespace fathom::master
