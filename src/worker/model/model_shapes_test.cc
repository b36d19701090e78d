#include "worker/model/model_shapes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "worker/model/model_testing.h"
#include "worker/model/random_weights.h"

namespace fathom::worker {
namespace {

int64_t Parameters(const ModelConfig& c) {
  const int64_t hidden = c.hidden_size;
  const int64_t q = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_kv_heads} * c.head_dim;
  const int64_t layer =
      hidden * (q + 2 * kv) + q * hidden + int64_t{3} * hidden * c.intermediate_size;
  return c.num_layers * layer + hidden * c.vocab_size * (c.tie_word_embeddings ? 1 : 2);
}

TEST(ModelShapesTest, EveryShapeIsAModelOfTheSizeItsNameSays) {
  const std::map<std::string_view, double> billions = {{"qwen2.5-0.5b", 0.49},
                                                       {"qwen3-0.6b", 0.60},
                                                       {"llama-3.2-1b", 1.24},
                                                       {"llama-3.1-8b", 8.03},
                                                       {"qwen3-8b", 8.19}};
  ASSERT_EQ(ModelShapes().size(), billions.size());
  for (const ModelShape& shape : ModelShapes()) {
    SCOPED_TRACE(std::string(shape.name));
    const auto config = ConfigOfShape(shape.name);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_NEAR(static_cast<double>(Parameters(*config)) / 1e9, billions.at(shape.name), 0.01);
    EXPECT_EQ(config->dtype, DType::kBF16);
  }
}

TEST(ModelShapesTest, AnUnknownNameListsTheKnownOnes) {
  const absl::Status status = ConfigOfShape("gpt-5").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_NE(status.message().find("qwen2.5-0.5b, qwen3-0.6b"), std::string::npos) << status;
}

TEST(RandomWeightsTest, GivesSmallNumbersInAnyShapeUpToTheLargest) {
  const ModelConfig config = *ConfigOfShape("qwen2.5-0.5b");
  const RandomWeights weights(config, DType::kF32, 7);
  const int64_t shape[] = {config.vocab_size, config.hidden_size};
  const auto view = weights.Find("model.embed_tokens.weight", shape);
  ASSERT_TRUE(view.ok()) << view.status();
  ASSERT_EQ(view->NumElements(), int64_t{151936} * 896);
  double squares = 0;
  std::vector<float> first(100'000);
  std::memcpy(first.data(), view->data, first.size() * sizeof(float));
  for (const float value : first) squares += double{value} * value;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(first.size())), 0.02, 0.001);

  const int64_t too_large[] = {config.vocab_size + 1, config.hidden_size};
  EXPECT_TRUE(absl::IsInvalidArgument(weights.Find("x", too_large).status()));
}

TEST(RandomWeightsTest, AModelOfThemComputesFiniteLogits) {
  ModelOptions options;
  options.dummy_shape = "qwen2.5-0.5b";
  options.max_step_tokens = 16;
  options.max_logit_rows = 1;
  ModelHarness harness(options, 1);
  const std::vector<float> logits = harness.Step({{0, {1, 2, 3}, {2}}});
  ASSERT_EQ(logits.size(), 151936u);
  for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_NE(logits[0], logits[1]);
}

TEST(RandomWeightsTest, TokensThatAreNotLiveWeighNothing) {
  const ModelConfig config = *ConfigOfShape("qwen2.5-0.5b");
  const RandomWeights weights(config, DType::kF32, 7, 100);
  const int64_t shape[] = {config.vocab_size, config.hidden_size};
  const auto view = weights.Find("model.embed_tokens.weight", shape);
  ASSERT_TRUE(view.ok()) << view.status();
  const auto* values = static_cast<const float*>(view->data);
  EXPECT_NE(values[99 * shape[1]], 0);
  EXPECT_EQ(values[100 * shape[1]], 0);
  EXPECT_EQ(values[shape[0] * shape[1] - 1], 0);
}

TEST(RandomWeightsTest, AnUnknownShapeIsRefused) {
  ModelOptions options;
  options.dummy_shape = "none";
  EXPECT_TRUE(absl::IsNotFound(LoadModel(options).status()));
}

}  // namespace
}  // namespace fathom::worker
