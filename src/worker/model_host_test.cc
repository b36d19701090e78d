// The host of models with engines that do what the test says.

#include "worker/model_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "common/status_macros.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000'000;

// What becomes of loads and engines, as the test wants it.
class Stage : public Waitable {
 public:
  class Engine final : public ServingEngine {
   public:
    Engine(Stage* stage, std::string model) : stage_(stage), model_(std::move(model)) {
      stage_->Set([&] { stage_->alive.insert(model_); });
    }
    ~Engine() override {
      stage_->Set([&] { stage_->alive.erase(stage_->alive.find(model_)); });
    }
    absl::Status WarmUp() override {
      EXPECT_TRUE(stage_->WaitUntil([&] { return stage_->cold.count(model_) == 0; }));
      return stage_->With([&] { return stage_->warm_up; });
    }
    absl::Status Submit(EngineRequest request) override {
      stage_->Set([&] { stage_->submitted.emplace_back(model_, request.id); });
      return absl::OkStatus();
    }
    void Cancel(const std::string&, uint32_t, std::vector<int32_t>) override {}
    void Stop() override {}
    EngineStats Stats() const override {
      return stage_->With([&] { return stage_->stats[model_]; });
    }
    CacheChanges TakeCacheChanges() override { return {}; }
    absl::Status Health() const override {
      return stage_->With([&] { return stage_->health; });
    }

   private:
    Stage* const stage_;
    const std::string model_;
  };

  absl::StatusOr<Loaded> Load(const LoadOrder& order, const ModelHost::Progress& progress) {
    Set([&] { loads.push_back(order.model); });
    // As one that reads tensor by tensor.
    do {
      RETURN_IF_ERROR(progress(1, 2));
      absl::SleepFor(absl::Milliseconds(1));
    } while (With([&] { return closed.count(order.model) > 0; }));
    if (const auto it = refused.find(order.path); it != refused.end()) return it->second;
    Loaded loaded;
    loaded.engine = std::make_shared<Engine>(this, order.model);
    loaded.model.set_name(order.model);
    loaded.model.set_kv_tokens(order.kv_cache_bytes);
    loaded.capacity = 100;
    loaded.memory_bytes = 7;
    return loaded;
  }
  void Tell(ModelNews news) {
    Set([&] {
      const std::string line = news.state.model() + " " + v1::ModelPhase_Name(news.state.phase());
      if (phases.empty() || phases.back() != line) phases.push_back(line);
      states[news.state.model()] = news.state;
      if (news.engine) ports[news.state.model()] = *news.engine;
    });
  }
  template <typename Change>
  void Set(Change change) {
    With(change);
  }
  using Waitable::With;

  std::set<std::string> closed;                 // whose loads wait
  std::set<std::string> cold;                   // whose first requests wait
  std::map<std::string, absl::Status> refused;  // folders
  absl::Status warm_up;
  absl::Status health;
  std::map<std::string, EngineStats> stats;

  std::vector<std::string> loads;  // begun
  std::multiset<std::string> alive;
  std::vector<std::pair<std::string, std::string>> submitted;
  std::vector<std::string> phases;  // told, without repeats
  std::map<std::string, v1::ModelState> states;
  std::map<std::string, EnginePort> ports;
};

class ModelHostTest : public testing::Test {
 protected:
  void Load(const std::string& model, const std::string& path = "/models/some") {
    host_->Load({.model = model, .path = path, .kv_cache_bytes = 5});
  }
  bool Becomes(const std::string& model, v1::ModelPhase phase) {
    return stage_.WaitUntil([&] { return stage_.states[model].phase() == phase; });
  }
  void Look(double seconds, const std::set<std::string>& used = {}) {
    host_->Look(static_cast<int64_t>(seconds * kSecond) + 1,
                [&](const std::string& model) { return used.count(model) > 0; });
  }
  v1::ModelPhase Phase(const std::string& model) {
    return stage_.With([&] { return stage_.states[model].phase(); });
  }

  Stage stage_;
  std::unique_ptr<ModelHost> host_ = std::make_unique<ModelHost>(ModelHost::Options{
      .load = [this](const auto& order,
                     const auto& progress) { return stage_.Load(order, progress); },
      .tell = [this](ModelNews news) { stage_.Tell(std::move(news)); },
      .free_memory = [](bool) { return 42; }});
};

TEST_F(ModelHostTest, LoadsRunOneAfterTheOtherInOrder) {
  stage_.Set([&] { stage_.closed = {"a", "b"}; });
  Load("a");
  Load("b");
  ASSERT_TRUE(stage_.WaitUntil([&] { return stage_.loads.size() == 1; }));
  EXPECT_EQ(Phase("b"), v1::MODEL_PHASE_LOADING);
  stage_.Set([&] { stage_.closed = {"b"}; });
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_READY));
  stage_.Set([&] { stage_.closed.clear(); });
  ASSERT_TRUE(Becomes("b", v1::MODEL_PHASE_READY));
  EXPECT_THAT(stage_.loads, ElementsAre("a", "b"));
  EXPECT_EQ(stage_.states["a"].loaded().kv_tokens(), 5);
  EXPECT_EQ(stage_.states["a"].memory_bytes(), 7);
  EXPECT_TRUE(stage_.ports["b"].submit({.id = "r"}).ok());
  EXPECT_THAT(stage_.submitted, ElementsAre(std::pair("b", "r")));
  EXPECT_EQ(host_->free_memory(), 42);
}

TEST_F(ModelHostTest, EveryPhaseIsToldInOrder) {
  Load("a");
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_READY));
  host_->Unload("a");
  Look(1);
  Look(2);
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_GONE));
  EXPECT_THAT(stage_.phases,
              ElementsAre("a MODEL_PHASE_LOADING", "a MODEL_PHASE_WARMING", "a MODEL_PHASE_READY",
                          "a MODEL_PHASE_UNLOADING", "a MODEL_PHASE_GONE"));
  EXPECT_THAT(stage_.alive, IsEmpty());
  EXPECT_EQ(stage_.ports["a"].submit({.id = "r"}).code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelHostTest, AModelThatIsThereIsToldOfAgainAndLoadedOnce) {
  Load("a");
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_READY));
  stage_.Set([&] { stage_.states.clear(); });
  Load("a", "/models/other");
  EXPECT_EQ(Phase("a"), v1::MODEL_PHASE_READY);
  EXPECT_EQ(stage_.loads.size(), 1u);
}

TEST_F(ModelHostTest, AFailureIsKeptTriedAgainAndForgotten) {
  stage_.Set([&] { stage_.refused["/bad"] = absl::ResourceExhaustedError("too large"); });
  EXPECT_EQ(host_->LoadAndWait({.model = "a", .path = "/bad"}).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(stage_.states["a"].code(), 8);
  EXPECT_EQ(stage_.states["a"].error(), "too large");
  EXPECT_EQ(host_->CountPhases()[v1::MODEL_PHASE_FAILED], 1);
  EXPECT_TRUE(host_->LoadAndWait({.model = "a", .path = "/good"}).ok());
  EXPECT_EQ(stage_.states["a"].code(), 0);
  EXPECT_EQ(host_->LoadAndWait({.model = "b", .path = "/bad"}).message(), "too large");
  host_->Unload("b");
  EXPECT_EQ(Phase("b"), v1::MODEL_PHASE_GONE);
  EXPECT_EQ(host_->CountPhases()[v1::MODEL_PHASE_FAILED], 0);
}

TEST_F(ModelHostTest, WhatFailsItsFirstRequestDoesNotServe) {
  stage_.Set([&] { stage_.warm_up = absl::InternalError("no token"); });
  EXPECT_THAT(std::string(host_->LoadAndWait({.model = "a", .path = "/m"}).message()),
              HasSubstr("no token"));
  EXPECT_TRUE(stage_.WaitUntil([&] { return stage_.alive.empty(); }));
  EXPECT_TRUE(host_->Health().ok());
  // A device that is lost is so for every model.
  stage_.Set([&] { stage_.health = absl::UnavailableError("off the bus"); });
  Load("b");
  ASSERT_TRUE(Becomes("b", v1::MODEL_PHASE_FAILED));
  ASSERT_TRUE(stage_.WaitUntil([&] { return stage_.alive.empty(); }));
  EXPECT_EQ(host_->Health().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ModelHostTest, UnloadingWaitsForWhatRunsAndWhatWaits) {
  Load("a");
  Load("b");
  ASSERT_TRUE(Becomes("b", v1::MODEL_PHASE_READY));
  host_->Unload("a");
  stage_.Set([&] { stage_.stats["a"].running = 1; });
  Look(1);
  Look(5);
  EXPECT_TRUE(stage_.ports["a"].submit({.id = "late"}).ok());
  stage_.Set([&] { stage_.stats["a"].running = 0; });
  Look(6, {"a"});
  Look(9, {"a"});
  EXPECT_EQ(Phase("a"), v1::MODEL_PHASE_UNLOADING);
  Look(10);
  Look(10.9);
  EXPECT_TRUE(stage_.ports["a"].submit({.id = "later"}).ok());
  Look(11);
  EXPECT_EQ(stage_.ports["a"].submit({.id = "too late"}).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_GONE));
  EXPECT_THAT(stage_.alive, ElementsAre("b"));
  EXPECT_EQ(Phase("b"), v1::MODEL_PHASE_READY);
}

TEST_F(ModelHostTest, AnOrderToLoadKeepsWhatIsBeingUnloaded) {
  Load("a");
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_READY));
  host_->Unload("a");
  Look(1);
  Load("a");
  EXPECT_EQ(Phase("a"), v1::MODEL_PHASE_READY);
  Look(5);
  Look(9);
  EXPECT_TRUE(stage_.ports["a"].submit({.id = "r"}).ok());
  EXPECT_EQ(stage_.loads.size(), 1u);
}

TEST_F(ModelHostTest, ALoadIsEndedByAnOrderToUnload) {
  stage_.Set([&] { stage_.closed = {"a", "b"}; });
  Load("a");
  Load("b");
  ASSERT_TRUE(stage_.WaitUntil([&] { return stage_.loads.size() == 1; }));
  host_->Unload("b");  // it has not begun
  EXPECT_EQ(Phase("b"), v1::MODEL_PHASE_GONE);
  host_->Unload("a");
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_GONE));
  stage_.Set([&] { stage_.closed.clear(); });
  Load("c");
  ASSERT_TRUE(Becomes("c", v1::MODEL_PHASE_READY));
  EXPECT_THAT(stage_.loads, ElementsAre("a", "c"));
}

TEST_F(ModelHostTest, WhatIsOrderedWhileItGoesComesAgain) {
  stage_.Set([&] { stage_.cold = {"a"}; });
  Load("a");
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_WARMING));
  host_->Unload("a");
  Load("a");
  stage_.Set([&] { stage_.cold.clear(); });
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_READY));
  EXPECT_EQ(stage_.loads.size(), 2u);
  EXPECT_THAT(stage_.phases,
              ElementsAre("a MODEL_PHASE_LOADING", "a MODEL_PHASE_WARMING", "a MODEL_PHASE_GONE",
                          "a MODEL_PHASE_LOADING", "a MODEL_PHASE_WARMING", "a MODEL_PHASE_READY"));
  EXPECT_THAT(stage_.alive, ElementsAre("a"));
}

TEST_F(ModelHostTest, OrdersAreBounded) {
  stage_.Set([&] { stage_.refused["/bad"] = absl::NotFoundError("nothing there"); });
  Load("", "/m");
  EXPECT_EQ(stage_.phases.size(), 2u);
  Load(std::string(1000, 'a'), "/m");
  Load("kept", "/m");
  ASSERT_TRUE(Becomes("kept", v1::MODEL_PHASE_READY));
  for (size_t i = 0; i < ModelHost::kModelsMax + 5; ++i) {
    const std::string model = "m" + std::to_string(i);
    EXPECT_EQ(host_->LoadAndWait({.model = model, .path = "/bad"}).code(),
              absl::StatusCode::kNotFound);
  }
  EXPECT_EQ(host_->CountPhases()[v1::MODEL_PHASE_FAILED], int{ModelHost::kModelsMax} - 1);
  EXPECT_EQ(Phase("m5"), v1::MODEL_PHASE_GONE);
  EXPECT_EQ(Phase("m6"), v1::MODEL_PHASE_FAILED);
  EXPECT_EQ(Phase("kept"), v1::MODEL_PHASE_READY);
}

TEST_F(ModelHostTest, FiguresOutliveTheirModel) {
  for (const char* model : {"a", "b"}) {
    ASSERT_TRUE(host_->LoadAndWait({.model = model, .path = "/m"}).ok());
    stage_.Set([&] { stage_.stats[model] = {.total_blocks = 10, .output_tokens = 30}; });
  }
  EXPECT_EQ(host_->Totals().output_tokens, 60);
  EXPECT_EQ(host_->Totals().total_blocks, 20);
  host_->Unload("a");
  Look(1);
  Look(2);
  ASSERT_TRUE(Becomes("a", v1::MODEL_PHASE_GONE));
  EXPECT_EQ(host_->Totals().output_tokens, 60);
  EXPECT_EQ(host_->Totals().total_blocks, 10);
}

TEST_F(ModelHostTest, ItEndsInTheMiddleOfALoad) {
  stage_.Set([&] { stage_.closed = {"a"}; });
  Load("a");
  Load("b");
  ASSERT_TRUE(stage_.WaitUntil([&] { return stage_.loads.size() == 1; }));
  host_.reset();
  EXPECT_THAT(stage_.loads, ElementsAre("a"));
}

}  // namespace
}  // namespace fathom::worker
