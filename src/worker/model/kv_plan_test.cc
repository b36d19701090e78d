#include "worker/model/kv_plan.h"

#include <gtest/gtest.h>

#include "common/strings.h"

namespace fathom::worker {
namespace {

ModelConfig MixedConfig() {
  ModelConfig config;
  config.num_layers = 3;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  config.sliding_window = 64;
  config.layer_types = {LayerType::kFullAttention, LayerType::kSlidingAttention,
                        LayerType::kSlidingAttention};
  return config;
}

TEST(KvPlanTest, LayersOfAKindShareAGroup) {
  const KvSpec spec = MakeKvSpec(MixedConfig(), DType::kBF16, 16);
  ASSERT_EQ(spec.groups.size(), 2U);
  EXPECT_EQ(spec.groups[0].layers, (std::vector<int32_t>{0}));
  EXPECT_EQ(spec.groups[1].layers, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(spec.groups[1].window_tokens, 64);
  EXPECT_EQ(spec.groups[0].bytes_per_token, 2 * 2 * 32 * 2);
  EXPECT_EQ(spec.BytesPerBlock(1), 2 * 2 * 2 * 32 * 2 * 16);
}

TEST(KvPlanTest, TakesWhatFitsAndNoMoreThanCanBeUsed) {
  const KvSpec spec = MakeKvSpec(MixedConfig(), DType::kF32, 16);
  const int64_t row = spec.BytesPerBlock(0) + spec.BytesPerBlock(1);
  const auto some = PlanKv(spec, row * 50 + row - 1, 100, 64);
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_EQ(some->num_blocks, (std::vector<int32_t>{50, 50}));
  EXPECT_EQ(some->max_blocks_per_sequence, 7);
  const auto all = PlanKv(spec, int64_t{1} << 40, 100, 3);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->num_blocks, (std::vector<int32_t>{21, 21}));
}

TEST(KvPlanTest, SequenceThatCanNeverFinishIsRefusedWithTheFigures) {
  const KvSpec spec = MakeKvSpec(MixedConfig(), DType::kF32, 16);
  const int64_t row = spec.BytesPerBlock(0) + spec.BytesPerBlock(1);
  const absl::Status status = PlanKv(spec, row * 7 - 1, 100, 4).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_NE(Message(status).find("one sequence of 100 tokens"), std::string::npos) << status;
  EXPECT_TRUE(absl::IsResourceExhausted(PlanKv(spec, -5, 100, 4).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(PlanKv(spec, row, 0, 4).status()));
}

}  // namespace
}  // namespace fathom::worker
