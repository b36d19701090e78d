#include "worker/sampling/sampler.h"

#include <gtest/gtest.h>

#include <vector>

namespace fathom::worker {
namespace {

class SamplerTest : public testing::Test {
 protected:
  static SlotSetup Setup(int32_t slot) {
    SlotSetup s;
    s.slot = slot;
    s.params.temperature = 0;
    s.max_output = 16;
    return s;
  }
  const SampleOutput& Sample(const SampleInput& input, const std::vector<float>& logits) {
    EXPECT_TRUE(sampler_
                    .Run(input, logits.data(), static_cast<int32_t>(logits.size() / 4),
                         slot_tokens_, &output_)
                    .ok());
    return output_;
  }

  Sampler sampler_{3, 4};
  std::vector<TokenId> slot_tokens_ = {-1, -1, -1};
  SampleOutput output_;
};

TEST_F(SamplerTest, WritesTheTokenToItsSlot) {
  SampleInput in;
  in.setups = {Setup(2), Setup(0)};
  in.rows = {{2, 1, 0, -1}, {0, 0, 0, -1}};
  Sample(in, {0, 9, 0, 0, 0, 0, 0, 9});
  EXPECT_EQ(output_.tokens, (std::vector<TokenId>{3, 1}));
  EXPECT_EQ(slot_tokens_, (std::vector<TokenId>{1, -1, 3}));
}

TEST_F(SamplerTest, CountsGoOnWithoutTheHost) {
  SampleInput first;
  first.setups = {Setup(1)};
  first.setups[0].params.presence_penalty = 1;
  first.rows = {{1, 0, 0, -1}};
  const std::vector<float> logits = {2, 1.5F, 0, 0};
  EXPECT_EQ(Sample(first, logits).tokens[0], 0);
  SampleInput next;
  next.rows = {{1, 0, 1, -1}};
  EXPECT_EQ(Sample(next, logits).tokens[0], 1);
}

TEST_F(SamplerTest, AMigratedChoiceBringsItsCounts) {
  SampleInput in;
  in.setups = {Setup(1)};
  in.setups[0].params.presence_penalty = 1;
  in.setups[0].output = {0};
  in.rows = {{1, 0, 1, -1}};
  EXPECT_EQ(Sample(in, {2, 1.5F, 0, 0}).tokens[0], 1);
}

TEST_F(SamplerTest, ASetupForgetsTheSlotsFormerLife) {
  SampleInput first;
  first.setups = {Setup(1)};
  first.setups[0].params.presence_penalty = 2;
  first.setups[0].output = {0};
  first.setups[0].params.logit_bias = {{3, 100}};
  first.rows = {{1, 0, 1, -1}};
  EXPECT_EQ(Sample(first, {2, 1.5F, 0, 0}).tokens[0], 3);
  SampleInput second;
  second.setups = {Setup(1)};
  second.rows = {{1, 0, 0, -1}};
  EXPECT_EQ(Sample(second, {2, 1.5F, 0, 0}).tokens[0], 0);
}

TEST_F(SamplerTest, EndTokensAreMaskedBeforeMinTokens) {
  SampleInput in;
  in.setups = {Setup(0)};
  in.setups[0].min_tokens = 2;
  in.setups[0].end_tokens = {0};
  in.rows = {{0, 0, 1, -1}};
  EXPECT_EQ(Sample(in, {2, 1, 0, 0}).tokens[0], 1);
  in.setups.clear();
  in.rows = {{0, 0, 2, -1}};
  EXPECT_EQ(Sample(in, {2, 1, 0, 0}).tokens[0], 0);
}

TEST_F(SamplerTest, RowsWithAndWithoutLogprobsMix) {
  SampleInput in;
  in.setups = {Setup(0), Setup(1), Setup(2)};
  in.setups[1].num_logprobs = 2;
  in.setups[2].num_logprobs = 0;
  in.rows = {{0, 0, 0, -1}, {1, 0, 0, -1}, {2, 0, 0, -1}};
  in.scores = {{0, 3, 1}};
  Sample(in, {2, 1, 0, 0});
  EXPECT_TRUE(output_.logprobs[0].top.empty());
  ASSERT_EQ(output_.logprobs[1].top.size(), 2U);
  EXPECT_EQ(output_.logprobs[1].top[1].token, 1);
  EXPECT_LT(output_.logprobs[2].chosen.logprob, 0);
  EXPECT_FLOAT_EQ(output_.logprobs[1].top[0].logprob, output_.logprobs[2].chosen.logprob);
  ASSERT_EQ(output_.scores.size(), 1U);
  EXPECT_EQ(output_.scores[0].chosen.token, 3);
  EXPECT_NEAR(output_.scores[0].chosen.logprob, output_.logprobs[2].chosen.logprob - 2, 1e-6);
}

TEST_F(SamplerTest, MasksAreByRow) {
  SampleInput in;
  in.setups = {Setup(0), Setup(1)};
  in.mask_words = 1;
  in.masks = {0b1000, 0b0010};
  in.rows = {{0, 0, 0, 1}, {1, 0, 0, 0}};
  EXPECT_EQ(Sample(in, {9, 1, 0, 0}).tokens, (std::vector<TokenId>{1, 3}));
}

TEST_F(SamplerTest, InconsistentInputIsRefused) {
  SampleInput in;
  in.rows = {{7, 0, 0, -1}};
  const std::vector<float> logits(4);
  EXPECT_FALSE(sampler_.Run(in, logits.data(), 1, slot_tokens_, &output_).ok());
  in.rows = {{0, 1, 0, -1}};
  EXPECT_FALSE(sampler_.Run(in, logits.data(), 1, slot_tokens_, &output_).ok());
}

}  // namespace
}  // namespace fathom::worker
