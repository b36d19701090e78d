#include "worker/sampling/params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace fathom::worker {
namespace {

bool Refused(const std::function<void(SamplingParams&)>& change) {
  SamplingParams p;
  change(p);
  return ValidateSampling(p, 100).code() == absl::StatusCode::kInvalidArgument;
}

TEST(ParamsTest, DefaultsAreValid) {
  EXPECT_TRUE(ValidateSampling({}, 100).ok());
  StopConditions stop;
  stop.max_tokens = 1;
  EXPECT_TRUE(ValidateStop(stop, 100).ok());
  EXPECT_TRUE(ValidateLogprobs({}).ok());
}

TEST(ParamsTest, EveryBoundHolds) {
  EXPECT_TRUE(Refused([](auto& p) { p.temperature = -0.1F; }));
  EXPECT_TRUE(Refused([](auto& p) { p.temperature = NAN; }));
  EXPECT_TRUE(Refused([](auto& p) { p.temperature = INFINITY; }));
  EXPECT_TRUE(Refused([](auto& p) { p.top_k = -1; }));
  EXPECT_TRUE(Refused([](auto& p) { p.top_p = 0; }));
  EXPECT_TRUE(Refused([](auto& p) { p.top_p = 1.01F; }));
  EXPECT_TRUE(Refused([](auto& p) { p.min_p = -0.01F; }));
  EXPECT_TRUE(Refused([](auto& p) { p.presence_penalty = 2.1F; }));
  EXPECT_TRUE(Refused([](auto& p) { p.frequency_penalty = -2.1F; }));
  EXPECT_TRUE(Refused([](auto& p) { p.repetition_penalty = 0; }));
  EXPECT_TRUE(Refused([](auto& p) { p.logit_bias = {{100, 0}}; }));
  EXPECT_TRUE(Refused([](auto& p) { p.logit_bias = {{-1, 0}}; }));
  EXPECT_TRUE(Refused([](auto& p) { p.logit_bias = {{0, 101}}; }));
  EXPECT_TRUE(Refused([](auto& p) { p.logit_bias.resize(kMaxLogitBias + 1); }));
}

TEST(ParamsTest, StopAndLogprobsAreBounded) {
  StopConditions stop;
  EXPECT_FALSE(ValidateStop(stop, 100).ok());
  stop.max_tokens = 4;
  stop.min_tokens = 5;
  EXPECT_FALSE(ValidateStop(stop, 100).ok());
  stop.min_tokens = 0;
  stop.stop_token_ids = {100};
  EXPECT_FALSE(ValidateStop(stop, 100).ok());
  LogprobParams logprobs;
  logprobs.output_top = 21;
  EXPECT_FALSE(ValidateLogprobs(logprobs).ok());
  logprobs.output_top = 0;
  logprobs.prompt = -1;
  EXPECT_FALSE(ValidateLogprobs(logprobs).ok());
}

}  // namespace
}  // namespace fathom::worker
