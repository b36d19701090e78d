// The link of a worker with several models, or none: what masters hear of each, and which engine
// their work comes to.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "master/fleet/link_messages.h"
#include "worker/hand_master_testing.h"
#include "worker/link_client.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class LinkModelsTest : public testing::Test {
 protected:
  void Start() {
    LinkClientOptions options = TestOptions({master_.port});
    options.silence_floor = absl::Minutes(1);  // this master sends few heartbeats
    client_ = std::make_unique<LinkClient>(std::move(options));
  }
  void StartWithBoth() {
    Start();
    client_->OnModel(a_.Ready(TestModel("a"), 1000));
    client_->OnModel(b_.Ready(TestModel("b"), 300));
    ASSERT_TRUE(client_->Start(a_.Port()).ok());
    ASSERT_TRUE(master_.WaitUntil([&] { return !master_.received.empty(); }));
  }
  // A heartbeat that `condition` holds for, after all that has been heard so far.
  template <typename Condition>
  std::optional<v1::Heartbeat> NextBeat(Condition condition) {
    size_t from = 0;
    master_.Set([&] { from = master_.heard.size(); });
    std::optional<v1::Heartbeat> found;
    master_.WaitUntil([&] {
      for (size_t i = from; i < master_.heard.size() && !found; ++i) {
        const v1::WorkerControl& message = master_.heard[i];
        if (message.has_heartbeat() && condition(message.heartbeat())) found = message.heartbeat();
      }
      return found.has_value();
    });
    return found;
  }
  // What the master has been told of a model, lately the last.
  std::vector<v1::ModelPhase> Told(const std::string& model) {
    std::vector<v1::ModelPhase> phases;
    master_.Set([&] {
      for (const v1::WorkerControl& message : master_.heard) {
        if (message.model_state().model() == model) phases.push_back(message.model_state().phase());
      }
    });
    return phases;
  }
  bool IsTold(const std::string& model, v1::ModelPhase phase) {
    return master_.WaitUntil([&] {
      return std::any_of(master_.heard.begin(), master_.heard.end(), [&](const auto& message) {
        return message.model_state().model() == model && message.model_state().phase() == phase;
      });
    });
  }
  void Submit(const std::string& id, const std::string& model, uint32_t attempt = 1) {
    master::Submission submission = TestSubmission(id, attempt);
    submission.model = model;
    master_.Submit(master::ToMessage(submission));
  }
  bool HasCome(ScriptedEngine& engine, const std::string& id) {
    return engine.WaitUntil([&] {
      return std::any_of(engine.submitted.begin(), engine.submitted.end(),
                         [&](const EngineRequest& request) { return request.id == id; });
    });
  }
  // The code with which a submission was turned down.
  int32_t Refusal(const std::string& id) {
    int32_t code = -1;
    master_.WaitUntil([&] {
      for (const v1::WorkerData& message : master_.received) {
        for (const v1::Rejected& rejected : message.rejected()) {
          if (rejected.request_id() == id) code = rejected.code();
        }
      }
      return code >= 0;
    });
    return code;
  }
  bool IsOutput(const std::string& id, TokenId token) {
    return master_.WaitUntil([&] {
      for (const v1::WorkerData& message : master_.received) {
        for (const v1::StepOutput& output : message.outputs()) {
          if (output.request_id() == id && output.tokens(0) == token) return true;
        }
      }
      return false;
    });
  }

  HandMaster master_;
  ScriptedEngine a_;  // the worker's orders come here, too
  ScriptedEngine b_;
  std::unique_ptr<LinkClient> client_;  // goes first
};

TEST_F(LinkModelsTest, AWorkerWithoutAModelIsReadyAndTakesNothing) {
  a_.Set([&] { a_.free_memory = 77; });
  Start();
  ASSERT_TRUE(client_->Start(a_.Port()).ok());
  const auto beat = NextBeat([](const auto&) { return true; });
  ASSERT_TRUE(beat.has_value());
  EXPECT_EQ(beat->state(), v1::ENGINE_STATE_READY);
  EXPECT_EQ(beat->credit(), 0);
  EXPECT_EQ(beat->models_size(), 0);
  EXPECT_EQ(beat->free_memory_bytes(), 77);
  EXPECT_EQ(master_.heard[0].hello().models_size(), 0);
  Submit("r", "a");
  EXPECT_EQ(Refusal("r"), 5);
}

TEST_F(LinkModelsTest, OneModelHasTheFiguresOfTheWorker) {
  Start();
  ASSERT_TRUE(a_.Serve(*client_).ok());
  const auto beat = NextBeat([](const auto&) { return true; });
  ASSERT_TRUE(beat.has_value());
  EXPECT_EQ(beat->models_size(), 0);
  EXPECT_EQ(beat->credit(), 1000);
  EXPECT_EQ(beat->total_blocks(), 10);
  EXPECT_THAT(Told("tiny"), IsEmpty());  // Hello has said so
}

TEST_F(LinkModelsTest, SeveralModelsHaveEachTheirOwnAndSums) {
  a_.Set([&] {
    a_.stats.running = 2;
    a_.stats.free_blocks = 5;
    a_.stats.steps = 7;
    a_.stats.step_deadline_ns = Clock::Real()->MonotonicNs() + 3'600'000'000'000;
  });
  b_.Set([&] {
    b_.stats.waiting = 3;
    b_.stats.steps = 4;
    b_.stats.total_blocks = 20;
    b_.stats.free_blocks = 20;
    b_.stats.step_deadline_ns = Clock::Real()->MonotonicNs() + 60'000'000'000;
  });
  StartWithBoth();
  EXPECT_EQ(master_.heard[0].hello().models_size(), 2);
  Submit("r", "a");
  ASSERT_TRUE(HasCome(a_, "r"));
  const auto beat = NextBeat([](const auto&) { return true; });
  ASSERT_TRUE(beat.has_value());
  EXPECT_EQ(beat->engine_step(), 11u);
  EXPECT_EQ(beat->running(), 2);
  EXPECT_EQ(beat->waiting(), 3);
  EXPECT_EQ(beat->total_blocks(), 30);
  EXPECT_EQ(beat->credit(), 1300);
  EXPECT_FLOAT_EQ(beat->saturation(), 0.5);
  EXPECT_LE(beat->step_deadline_ms(), 60'000);
  EXPECT_GT(beat->step_deadline_ms(), 0);
  ASSERT_EQ(beat->models_size(), 2);
  EXPECT_EQ(beat->models(0).model(), "a");
  EXPECT_EQ(beat->models(0).credit(), 1000);
  EXPECT_EQ(beat->models(0).running(), 2);
  EXPECT_EQ(beat->models(1).model(), "b");
  EXPECT_EQ(beat->models(1).credit(), 300);
  EXPECT_EQ(beat->models(1).waiting(), 3);
  EXPECT_EQ(beat->models(1).total_blocks(), 20);
}

TEST_F(LinkModelsTest, CreditFollowsEachModelsOwnBacklogAndWork) {
  HandMaster other;
  Start();
  LinkClientOptions options = TestOptions({master_.port, other.port});
  options.silence_floor = absl::Minutes(1);
  client_ = std::make_unique<LinkClient>(std::move(options));
  client_->OnModel(a_.Ready(TestModel("a"), 1000));
  client_->OnModel(b_.Ready(TestModel("b"), 300));
  ASSERT_TRUE(client_->Start(a_.Port()).ok());
  const auto credits = [](int64_t a, int64_t b) {
    return [=](const v1::Heartbeat& beat) {
      return beat.models_size() == 2 && beat.models(0).credit() == a &&
             beat.models(1).credit() == b;
    };
  };
  EXPECT_TRUE(NextBeat(credits(500, 150)));
  v1::MasterControl message;
  message.mutable_heartbeat()->set_backlog_cost(50);
  v1::ModelBacklog* backlog = message.mutable_heartbeat()->add_backlogs();
  backlog->set_model("a");
  backlog->set_cost(50);
  master_.Send(message);
  EXPECT_TRUE(NextBeat(credits(875, 150)));
  Submit("r", "b");  // its cost is 10
  EXPECT_TRUE(NextBeat(credits(875, 10 + 145)));
}

TEST_F(LinkModelsTest, WorkAndCancelsComeToTheRightEngine) {
  StartWithBoth();
  Submit("ra", "a");
  Submit("rb", "b");
  ASSERT_TRUE(HasCome(a_, "ra"));
  ASSERT_TRUE(HasCome(b_, "rb"));
  client_->OnStep({TestOutput("ra", 1, 0, {1})});
  client_->OnStep({TestOutput("rb", 1, 0, {2})});
  EXPECT_TRUE(IsOutput("ra", 1));
  EXPECT_TRUE(IsOutput("rb", 2));
  v1::MasterControl cancel;
  cancel.mutable_cancel()->set_request_id("rb");
  cancel.mutable_cancel()->set_attempt(1);
  master_.Send(cancel);
  ASSERT_TRUE(b_.WaitUntil([&] { return !b_.cancelled.empty(); }));
  EXPECT_EQ(b_.cancelled[0].id, "rb");
  // Another attempt that comes to the other engine ends the one before.
  Submit("ra", "b", 2);
  ASSERT_TRUE(HasCome(b_, "ra"));
  ASSERT_TRUE(a_.WaitUntil([&] { return !a_.cancelled.empty(); }));
  EXPECT_EQ(a_.cancelled[0].id, "ra");
  EXPECT_EQ(a_.cancelled[0].attempt, 1u);
  EXPECT_EQ(b_.cancelled.size(), 1u);
}

TEST_F(LinkModelsTest, PhasesAreToldAsTheyCome) {
  Start();
  ASSERT_TRUE(client_->Start(a_.Port()).ok());
  ASSERT_TRUE(master_.WaitUntil([&] { return !master_.received.empty(); }));
  for (const v1::ModelPhase phase : {v1::MODEL_PHASE_LOADING, v1::MODEL_PHASE_WARMING}) {
    client_->OnModel({TestState("a", phase)});
  }
  client_->OnModel(a_.Ready(TestModel("a"), 1000));
  ASSERT_TRUE(IsTold("a", v1::MODEL_PHASE_READY));
  EXPECT_TRUE(NextBeat([](const auto& beat) { return beat.credit() == 1000; }));
  client_->OnModel({TestState("a", v1::MODEL_PHASE_UNLOADING)});
  ASSERT_TRUE(IsTold("a", v1::MODEL_PHASE_UNLOADING));
  Submit("r", "a");  // as long as it is there
  ASSERT_TRUE(HasCome(a_, "r"));
  client_->OnStep({TestOutput("r", 1, 0, {1}, FinishReason::kStop)});
  EXPECT_TRUE(IsOutput("r", 1));
  client_->OnModel({TestState("a", v1::MODEL_PHASE_GONE)});
  ASSERT_TRUE(IsTold("a", v1::MODEL_PHASE_GONE));
  EXPECT_TRUE(NextBeat([](const auto& beat) { return beat.credit() == 0; }));
  Submit("late", "a");
  EXPECT_EQ(Refusal("late"), 5);
  EXPECT_THAT(Told("a"),
              ElementsAre(v1::MODEL_PHASE_LOADING, v1::MODEL_PHASE_WARMING, v1::MODEL_PHASE_READY,
                          v1::MODEL_PHASE_UNLOADING, v1::MODEL_PHASE_GONE));
}

TEST_F(LinkModelsTest, WhatHelloDidNotSayIsToldAfterWelcome) {
  master_.Set([&] { master_.welcomes = false; });
  Start();
  client_->OnModel(a_.Ready(TestModel("stays"), 1000));
  client_->OnModel(a_.Ready(TestModel("goes"), 1000));
  client_->OnModel(a_.Ready(TestModel("ends"), 1000));
  client_->OnModel({TestState("ends", v1::MODEL_PHASE_UNLOADING)});
  client_->OnModel({TestState("failed", v1::MODEL_PHASE_FAILED)});
  ASSERT_TRUE(client_->Start(a_.Port()).ok());
  ASSERT_TRUE(master_.WaitUntil([&] { return !master_.heard.empty(); }));
  EXPECT_EQ(master_.heard[0].hello().models_size(), 3);
  // Between Hello and Welcome.
  client_->OnModel({TestState("goes", v1::MODEL_PHASE_GONE)});
  client_->OnModel(b_.Ready(TestModel("comes"), 1000));
  a_.Set([&] { a_.looks["comes"] = true; });
  ASSERT_TRUE(a_.WaitUntil([&] { return !a_.looks["comes"]; }));  // the link's thread has gone on
  master_.Set([&] { master_.welcomes = true; });
  EXPECT_TRUE(NextBeat([](const auto& beat) { return beat.models_size() == 3; }));
  EXPECT_THAT(Told("stays"), IsEmpty());
  EXPECT_THAT(Told("goes"), ElementsAre(v1::MODEL_PHASE_GONE));
  EXPECT_THAT(Told("ends"), ElementsAre(v1::MODEL_PHASE_UNLOADING));
  EXPECT_THAT(Told("failed"), ElementsAre(v1::MODEL_PHASE_FAILED));
  EXPECT_THAT(Told("comes"), ElementsAre(v1::MODEL_PHASE_READY));
}

TEST_F(LinkModelsTest, AModelIsInUseWhileItHasRequestsOrAMasterHasSome) {
  StartWithBoth();
  a_.Set([&] { a_.looks = {{"a", true}, {"b", true}}; });
  const auto seen = [&](bool a, bool b) {
    return a_.WaitUntil([&, a, b] { return a_.looks["a"] == a && a_.looks["b"] == b; });
  };
  EXPECT_TRUE(seen(false, false));
  Submit("r", "a");
  EXPECT_TRUE(seen(true, false));
  client_->OnStep({TestOutput("r", 1, 0, {1}, FinishReason::kStop)});
  EXPECT_TRUE(seen(false, false));
  v1::MasterControl message;
  message.mutable_heartbeat()->set_backlog_cost(5);
  message.mutable_heartbeat()->add_backlogs()->set_model("b");
  message.mutable_heartbeat()->mutable_backlogs(0)->set_cost(5);
  master_.Send(message);
  EXPECT_TRUE(seen(false, true));
  client_->OnModel({TestState("a", v1::MODEL_PHASE_GONE)});
  message.mutable_heartbeat()->clear_backlogs();  // what waits is the only model's
  master_.Send(message);
  EXPECT_TRUE(seen(false, true));
  message.mutable_heartbeat()->clear_backlog_cost();
  master_.Send(message);
  EXPECT_TRUE(seen(false, false));
}

TEST_F(LinkModelsTest, OrdersOfAnOldLeaderAreRefused) {
  Start();
  ASSERT_TRUE(client_->Start(a_.Port()).ok());
  ASSERT_TRUE(master_.WaitUntil([&] { return !master_.received.empty(); }));
  const auto load = [&](uint64_t epoch, const std::string& model) {
    v1::MasterControl order;
    order.mutable_load()->set_epoch(epoch);
    order.mutable_load()->set_model(model);
    master_.Send(order);
  };
  const auto unload = [&](uint64_t epoch, const std::string& model) {
    v1::MasterControl order;
    order.mutable_unload()->set_epoch(epoch);
    order.mutable_unload()->set_model(model);
    master_.Send(order);
  };
  load(5, "a");
  load(4, "stale");
  unload(4, "stale");
  unload(6, "b");
  load(5, "stale");
  load(6, "c");
  ASSERT_TRUE(a_.WaitUntil([&] { return a_.loads.size() == 2; }));
  EXPECT_EQ(a_.loads[0].model(), "a");
  EXPECT_EQ(a_.loads[1].model(), "c");
  EXPECT_THAT(a_.unloads, ElementsAre("b"));
}

TEST_F(LinkModelsTest, SeveralFastEnginesLoseNothing) {
  StartWithBoth();
  constexpr int kSteps = 3000;
  Submit("ra", "a");
  Submit("rb", "b");
  ASSERT_TRUE(HasCome(a_, "ra"));
  ASSERT_TRUE(HasCome(b_, "rb"));
  const auto run = [&](const char* id) {
    for (int i = 0; i < kSteps; ++i) client_->OnStep({TestOutput(id, 1, i, {i})});
  };
  std::thread first(run, "ra");
  std::thread second(run, "rb");
  first.join();
  second.join();
  for (const char* id : {"ra", "rb"}) {
    EXPECT_TRUE(master_.WaitUntil([&] {
      int next = 0;
      for (const v1::WorkerData& message : master_.received) {
        for (const v1::StepOutput& output : message.outputs()) {
          if (output.request_id() == id && output.first_index() == next) ++next;
        }
      }
      return next == kSteps;
    }));
  }
}

}  // namespace
}  // namespace fathom::worker
