#include "master/fleet/worker_facts.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "master/fleet/link_messages.h"

namespace fathom::master {
namespace {

v1::ModelState State(const std::string& model, v1::ModelPhase phase) {
  v1::ModelState state;
  state.set_model(model);
  state.set_phase(phase);
  return state;
}

TEST(WorkerFactsTest, AModelComesAndGoes) {
  WorkerInfo info;
  v1::ModelState state = State("chat@2", v1::MODEL_PHASE_LOADING);
  state.set_bytes_done(5);
  state.set_bytes_total(10);
  ASSERT_TRUE(Apply(state, &info).ok());
  ASSERT_EQ(info.models.size(), 1u);
  EXPECT_EQ(info.models[0].phase, ModelPhase::kLoading);
  EXPECT_FALSE(info.models[0].serving());
  EXPECT_EQ(info.models[0].bytes_done, 5);

  state = State("chat@2", v1::MODEL_PHASE_READY);
  state.mutable_loaded()->set_name("chat@2");
  state.mutable_loaded()->set_config_digest("c");
  state.set_memory_bytes(77);
  ASSERT_TRUE(Apply(state, &info).ok());
  EXPECT_TRUE(info.models[0].serving());
  EXPECT_EQ(info.models[0].config_digest, "c");
  EXPECT_EQ(info.models[0].memory_bytes, 77);

  ASSERT_TRUE(Apply(State("chat@2", v1::MODEL_PHASE_UNLOADING), &info).ok());
  EXPECT_TRUE(info.models[0].serving());
  EXPECT_EQ(info.models[0].config_digest, "c") << "a phase alone changes nothing else";
  ASSERT_TRUE(Apply(State("chat@2", v1::MODEL_PHASE_GONE), &info).ok());
  EXPECT_TRUE(info.models.empty());
  EXPECT_TRUE(Apply(State("chat@2", v1::MODEL_PHASE_GONE), &info).ok());
}

TEST(WorkerFactsTest, AFailureIsKeptWithItsReason) {
  WorkerInfo info;
  v1::ModelState state = State("m", v1::MODEL_PHASE_FAILED);
  state.set_code(static_cast<int32_t>(absl::StatusCode::kResourceExhausted));
  state.set_error(std::string(5000, 'x'));
  ASSERT_TRUE(Apply(state, &info).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(info.models[0].failure));
  EXPECT_EQ(info.models[0].failure.message().size(), 1024u);
  state.set_code(4711);
  ASSERT_TRUE(Apply(state, &info).ok());
  EXPECT_TRUE(absl::IsUnknown(info.models[0].failure));
  ASSERT_TRUE(Apply(State("m", v1::MODEL_PHASE_LOADING), &info).ok());
  EXPECT_TRUE(info.models[0].failure.ok()) << "tried again";
}

TEST(WorkerFactsTest, WhatIsNoStateOfAModelIsRefused) {
  WorkerInfo info;
  EXPECT_FALSE(Apply(State("", v1::MODEL_PHASE_READY), &info).ok());
  EXPECT_FALSE(Apply(State(std::string(257, 'm'), v1::MODEL_PHASE_READY), &info).ok());
  v1::ModelState state = State("a", v1::MODEL_PHASE_READY);
  state.mutable_loaded()->set_name("b");
  EXPECT_FALSE(Apply(state, &info).ok());
  EXPECT_TRUE(Apply(State("a", static_cast<v1::ModelPhase>(99)), &info).ok()) << "a newer protocol";
  info = {};
  for (size_t i = 0; i < kWorkerModelsMax; ++i) {
    ASSERT_TRUE(Apply(State(absl::StrCat("m", i), v1::MODEL_PHASE_LOADING), &info).ok());
  }
  EXPECT_FALSE(Apply(State("one more", v1::MODEL_PHASE_LOADING), &info).ok());
}

TEST(WorkerFactsTest, AHeartbeatHasEachModelsFiguresOrTheOnlyOnes) {
  WorkerInfo info;
  info.models.resize(2);
  info.models[0].name = "a";
  info.models[1].name = "b";
  v1::Heartbeat beat;
  beat.set_state(v1::ENGINE_STATE_READY);
  beat.set_credit(30);
  beat.set_free_memory_bytes(-1);
  beat.set_prefill_tokens_per_second(std::numeric_limits<float>::infinity());
  v1::ModelFigures* a = beat.add_models();
  a->set_model("a");
  a->set_credit(10);
  EXPECT_TRUE(Apply(beat, &info)) << "ready now";
  EXPECT_EQ(info.FiguresOf(info.models[0]).credit, 10);
  EXPECT_EQ(info.FiguresOf(info.models[1]).credit, 30);
  EXPECT_EQ(info.free_memory_bytes, 0);
  EXPECT_EQ(info.figures.prefill_tokens_per_second, 1e9F);
  EXPECT_FALSE(Apply(beat, &info)) << "nothing but figures";
  a->set_credit(0);
  EXPECT_TRUE(Apply(beat, &info)) << "one of them takes nothing any more";
  beat.clear_models();
  Apply(beat, &info);
  EXPECT_EQ(info.FiguresOf(info.models[0]).credit, 30);
}

TEST(WorkerFactsTest, FiguresBeyondMeasureAreBroughtIntoRange) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  constexpr int32_t kLeast = std::numeric_limits<int32_t>::min();
  WorkerInfo info;
  v1::Heartbeat beat;
  beat.set_waiting(kMost);
  beat.set_running(kLeast);
  beat.set_free_blocks(kMost);
  beat.set_total_blocks(kLeast);
  beat.set_credit(std::numeric_limits<int64_t>::min());
  beat.set_saturation(std::numeric_limits<float>::quiet_NaN());
  Apply(beat, &info);
  EXPECT_EQ(info.figures.waiting, kWorkerCountMax);
  EXPECT_EQ(info.figures.running, 0);
  EXPECT_EQ(info.figures.free_blocks, kWorkerCountMax);
  EXPECT_EQ(info.figures.total_blocks, 0);
  EXPECT_EQ(info.figures.credit, 0);
  EXPECT_EQ(info.saturation, 0);
  beat.set_saturation(7);
  Apply(beat, &info);
  EXPECT_EQ(info.saturation, 1);
}

TEST(WorkerFactsTest, WhatAHelloSaysOfItsMachineIsCut) {
  v1::Hello hello;
  hello.set_build(std::string(10'000, 'b'));
  for (int i = 0; i < 1000; ++i) hello.add_devices()->set_kind("a kind of device");
  const WorkerInfo info = InfoOf(hello);
  EXPECT_EQ(info.build.size(), 256u);
  EXPECT_EQ(info.device.size(), 1024u);
}

TEST(WorkerFactsTest, AHelloNamesAModelOnce) {
  v1::Hello hello;
  hello.set_protocol(kLinkProtocol);
  hello.set_worker_id("w");
  hello.set_incarnation(std::string(16, 'a'));
  hello.add_models()->set_name("m");
  EXPECT_TRUE(CheckHello(hello).ok());
  hello.add_models()->set_name("m");
  EXPECT_FALSE(CheckHello(hello).ok());
}

}  // namespace
}  // namespace fathom::master
