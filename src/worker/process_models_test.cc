// A worker process that was started without a model and loads, serves and unloads what a master
// orders.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "common/periodic.h"
#include "master/fleet/link_messages.h"
#include "worker/command_line.h"
#include "worker/hand_master_testing.h"
#include "worker/process_testing.h"

namespace fathom::worker {
namespace {

constexpr int64_t kKvBytes = 32 << 20;

class ProcessModelsTest : public testing::Test {
 protected:
  ProcessModelsTest() {
    process_.emplace(std::vector<std::string>{
        "--master", "127.0.0.1:" + std::to_string(master_.port), "--id", "w1", "--metrics-port",
        "0", "--threads", "1", "--insecure-link", "--exit-with-parent"});
    EXPECT_TRUE(master_.WaitUntil([&] { return !master_.received.empty(); })) << process_->Log();
  }
  void Load(const std::string& model, const std::string& snapshot = TinyModel()) {
    v1::MasterControl order;
    order.mutable_load()->set_epoch(1);
    order.mutable_load()->set_model(model);
    order.mutable_load()->set_snapshot(snapshot);
    order.mutable_load()->set_kv_cache_bytes(kKvBytes);
    master_.Send(order);
  }
  void Unload(const std::string& model) {
    v1::MasterControl order;
    order.mutable_unload()->set_epoch(1);
    order.mutable_unload()->set_model(model);
    master_.Send(order);
  }
  // Waits until the model's last state is of that phase.
  std::optional<v1::ModelState> Becomes(const std::string& model, v1::ModelPhase phase) {
    v1::ModelState state;
    const bool became = master_.WaitUntil([&] {
      for (const v1::WorkerControl& message : master_.heard) {
        if (message.model_state().model() == model) state = message.model_state();
      }
      return state.phase() == phase;
    });
    EXPECT_TRUE(became) << process_->Log();
    return became ? std::optional(state) : std::nullopt;
  }
  void Submit(const std::string& id, const std::string& model, int32_t max_tokens) {
    master::Submission submission = TestSubmission(id);
    submission.model = model;
    submission.prompt = {5, 6, 7, 8};
    submission.sampling.temperature = 0;
    submission.stop.max_tokens = max_tokens;
    submission.stop.ignore_eos = true;
    master_.Submit(master::ToMessage(submission));
  }
  struct Answer {
    std::vector<int32_t> tokens;
    int32_t finish = 0;
    int32_t refused = 0;
  };
  // Once `condition` holds for it.
  template <typename Condition>
  Answer Await(const std::string& id, Condition condition) {
    Answer answer;
    EXPECT_TRUE(master_.WaitUntil([&] {
      answer = {};
      for (const v1::WorkerData& message : master_.received) {
        for (const v1::Rejected& rejected : message.rejected()) {
          if (rejected.request_id() == id) answer.refused = rejected.code();
        }
        for (const v1::StepOutput& output : message.outputs()) {
          if (output.request_id() != id) continue;
          EXPECT_EQ(output.first_index(), static_cast<int32_t>(answer.tokens.size()));
          answer.tokens.insert(answer.tokens.end(), output.tokens().begin(), output.tokens().end());
          answer.finish = output.finish();
        }
      }
      return condition(answer);
    })) << process_->Log();
    return answer;
  }
  Answer AwaitEnd(const std::string& id) {
    return Await(id, [](const Answer& a) { return a.finish != 0 || a.refused != 0; });
  }
  v1::Heartbeat LastBeat() {
    v1::Heartbeat beat;
    master_.Set([&] {
      for (const v1::WorkerControl& message : master_.heard) {
        if (message.has_heartbeat()) beat = message.heartbeat();
      }
    });
    return beat;
  }

  HandMaster master_;
  // A master that says nothing counts as lost.
  const Periodic beating_{absl::Milliseconds(200), [this] {
                            v1::MasterControl beat;
                            beat.mutable_heartbeat();
                            master_.Send(beat);
                          }};
  std::optional<WorkerProcess> process_;
};

TEST_F(ProcessModelsTest, ServesTwoModelsAndUnloadsOneUnderWork) {
  EXPECT_EQ(master_.heard[0].hello().models_size(), 0);
  Load("x");
  Load("y");
  const auto x = Becomes("x", v1::MODEL_PHASE_READY);
  const auto y = Becomes("y", v1::MODEL_PHASE_READY);
  ASSERT_TRUE(x && y);
  EXPECT_EQ(x->loaded().kv_tokens(), y->loaded().kv_tokens());
  EXPECT_GT(x->memory_bytes(), kKvBytes);
  EXPECT_EQ(x->loaded().tokenizer_digest().size(), 64u);
  ASSERT_TRUE(master_.WaitUntil([&] {
    for (const auto& message : master_.heard) {
      if (message.heartbeat().models_size() == 2) return true;
    }
    return false;
  }));
  EXPECT_GT(LastBeat().free_memory_bytes(), 0);

  Submit("rx", "x", 20);
  Submit("ry", "y", 20);
  const Answer of_x = AwaitEnd("rx");
  EXPECT_EQ(of_x.tokens.size(), 20u);
  EXPECT_EQ(of_x.tokens, AwaitEnd("ry").tokens);

  Submit("long", "x", 1500);
  Await("long", [](const Answer& answer) { return !answer.tokens.empty(); });
  Unload("x");
  Becomes("x", v1::MODEL_PHASE_UNLOADING);
  Submit("late", "x", 20);
  EXPECT_EQ(AwaitEnd("late").tokens, of_x.tokens);
  EXPECT_EQ(AwaitEnd("long").tokens.size(), 1500u);
  Becomes("x", v1::MODEL_PHASE_GONE);
  Submit("gone", "x", 20);
  EXPECT_EQ(AwaitEnd("gone").refused, 5);
  Submit("stays", "y", 20);
  EXPECT_EQ(AwaitEnd("stays").tokens, of_x.tokens);
  EXPECT_TRUE(master_.WaitUntil([&] {
    const v1::WorkerControl& last = master_.heard.back();
    return last.has_heartbeat() && last.heartbeat().models_size() == 0 &&
           last.heartbeat().credit() == 2 * y->loaded().kv_tokens();
  }));
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), kExitOk) << process_->Log();
}

TEST_F(ProcessModelsTest, WhatCannotBeLoadedIsToldAndTheWorkerGoesOn) {
  Load("x", "/nowhere/at/all");
  const auto failed = Becomes("x", v1::MODEL_PHASE_FAILED);
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(failed->code(), 5);
  EXPECT_NE(failed->error(), "");
  Load("x");
  Becomes("x", v1::MODEL_PHASE_READY);
  Submit("r", "x", 5);
  EXPECT_EQ(AwaitEnd("r").tokens.size(), 5u);
}

}  // namespace
}  // namespace fathom::worker
