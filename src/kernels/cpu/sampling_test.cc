#include "kernels/cpu/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "kernels/philox.h"

namespace fathom::kernels::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// One row over its own logits.
struct Case {
  std::vector<float> logits;
  SamplingRow row{};
  std::vector<TokenCount> counts;
  int32_t num_counts = 0;

  explicit Case(std::vector<float> l) : logits(std::move(l)) {
    row.top_p = 1;
    row.repetition_penalty = 1;
    row.num_logprobs = -1;
  }
  void History(std::vector<TokenCount> history) {
    num_counts = static_cast<int32_t>(history.size());
    counts = std::move(history);
    counts.resize(logits.size());
    row.counts = counts.data();
    row.num_counts = &num_counts;
    row.counts_capacity = static_cast<int32_t>(counts.size());
  }
};

struct Result {
  int32_t token = -7;
  uint8_t status = 99;
  float logprob = 0;
  std::vector<int32_t> top;
  std::vector<float> top_logprobs;
};

Result Sample(Case& c) {
  Result r;
  int32_t slot_token = -7;
  const int32_t width = std::max(c.row.num_logprobs, 0);
  r.top.resize(width);
  r.top_logprobs.resize(width);
  SamplingArgs args{};
  args.logits = c.logits.data();
  args.num_logit_rows = 1;
  args.vocab = static_cast<int32_t>(c.logits.size());
  args.rows = &c.row;
  args.num_rows = 1;
  args.max_logprobs = width;
  args.slot_tokens = &slot_token;
  args.tokens = &r.token;
  args.status = &r.status;
  args.logprobs = &r.logprob;
  args.top_tokens = r.top.data();
  args.top_logprobs = r.top_logprobs.data();
  SamplingScratch scratch;
  EXPECT_TRUE(SampleTokens(args, &scratch).ok());
  EXPECT_EQ(slot_token, r.token);
  return r;
}

// How often each token comes over many positions.
std::map<int32_t, int> Histogram(Case& c, int draws) {
  std::map<int32_t, int> seen;
  for (int i = 0; i < draws; ++i) {
    c.row.position = i;
    ++seen[Sample(c).token];
  }
  return seen;
}

TEST(SamplingTest, TemperatureZeroTakesTheLowestOfEquals) {
  Case c({1, 5, 5, 2, 5});
  EXPECT_EQ(Sample(c).token, 1);
}

TEST(SamplingTest, SameKeySameTokenOtherPositionOtherTokens) {
  Case c(std::vector<float>(1000, 0.0F));
  c.row.temperature = 1;
  c.row.seed = 42;
  EXPECT_EQ(Sample(c).token, Sample(c).token);
  EXPECT_GT(Histogram(c, 50).size(), 40U);
}

TEST(SamplingTest, FrequenciesFollowTheSoftmaxAtTheTemperature) {
  Case c({0.0F, 1.0F, 2.0F, -1.0F, 0.5F, -kInf});
  c.row.temperature = 0.7F;
  c.row.seed = 9;
  double total = 0;
  for (const float l : c.logits) total += std::exp(l / 0.7);
  constexpr int kDraws = 40000;
  const std::map<int32_t, int> seen = Histogram(c, kDraws);
  double chi2 = 0;
  for (int32_t id = 0; id < 5; ++id) {
    const double expected = kDraws * std::exp(c.logits[id] / 0.7) / total;
    const double got = seen.contains(id) ? seen.at(id) : 0;
    chi2 += (got - expected) * (got - expected) / expected;
  }
  EXPECT_LT(chi2, 18.5);  // 4 degrees of freedom, p = 0.001
  EXPECT_FALSE(seen.contains(5));
}

// The definition, with the noise of every token computed.
int32_t NaiveGumbelMax(const Case& c) {
  int32_t best = -1;
  float best_score = 0;
  const float max = *std::max_element(c.logits.begin(), c.logits.end());
  for (uint32_t id = 0; id < c.logits.size(); ++id) {
    const uint32_t draw = SamplingDraws(c.row.seed, c.row.choice, c.row.position, id / 4).v[id % 4];
    const float v = std::min((static_cast<float>(draw) + 0.5F) * 0x1p-32F, 1.0F - 0x1p-24F);
    const float score = (c.logits[id] - max) / c.row.temperature - std::log(-std::log1p(-v));
    if (best < 0 || score > best_score) {
      best = static_cast<int32_t>(id);
      best_score = score;
    }
  }
  return best;
}

TEST(SamplingTest, TokensThatCannotWinAreSkippedWithoutEffect) {
  std::mt19937 random(5);
  for (const float spread : {0.0F, 0.3F, 3.0F, 30.0F}) {
    std::normal_distribution<float> normal(0, spread);
    Case c(std::vector<float>(1037));
    for (float& l : c.logits) l = normal(random);
    c.row.temperature = 0.8F;
    for (uint32_t i = 0; i < 200; ++i) {
      c.row.position = i;
      c.row.seed = random();
      ASSERT_EQ(Sample(c).token, NaiveGumbelMax(c)) << spread;
    }
  }
}

TEST(SamplingTest, ThePeakIsFoundWhereverItIs) {
  for (const size_t size : {1, 2, 15, 16, 17, 1023, 1024, 1025, 2500}) {
    for (size_t at = 0; at < size; at += 1 + size / 40) {
      Case c(std::vector<float>(size, -3.0F));
      c.logits[at] = 2;
      c.logits[size - 1] = 2;  // an equal one behind loses
      EXPECT_EQ(Sample(c).token, static_cast<int32_t>(at));
      c.logits[size / 2] = NAN;
      EXPECT_EQ(Sample(c).status, kRowNotFinite);
    }
  }
}

TEST(SamplingTest, TopKKeepsTheLowerIdsOfEquals) {
  Case c({1, 3, 3, 3, 0});
  c.row.temperature = 1;
  c.row.top_k = 2;
  const auto seen = Histogram(c, 300);
  EXPECT_EQ(seen.size(), 2U);
  EXPECT_TRUE(seen.contains(1) && seen.contains(2));
}

TEST(SamplingTest, TopPKeepsTheShortestHeadThatReachesIt) {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  Case c({std::log(0.15F), std::log(0.5F), std::log(0.05F), std::log(0.3F)});
  c.row.temperature = 1;
  c.row.top_p = 0.79F;
  EXPECT_EQ(Histogram(c, 500).size(), 2U);
  c.row.top_p = 0.81F;
  EXPECT_EQ(Histogram(c, 500).size(), 3U);
  c.row.top_p = 0.01F;
  EXPECT_EQ(Histogram(c, 100).size(), 1U);
}

TEST(SamplingTest, TopPCountsWhatTopKLeft) {
  // After top-k 2 the probabilities are 0.625 and 0.375: 0.6 keeps only the first.
  Case c({std::log(0.15F), std::log(0.5F), std::log(0.05F), std::log(0.3F)});
  c.row.temperature = 1;
  c.row.top_k = 2;
  c.row.top_p = 0.6F;
  EXPECT_EQ(Histogram(c, 200).size(), 1U);
}

TEST(SamplingTest, TopPOverALargeVocabularyEqualsAFullSort) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 2);
  Case c(std::vector<float>(3000));
  for (float& l : c.logits) l = normal(random);
  c.row.temperature = 1.3F;
  c.row.top_p = 0.9F;
  std::vector<std::pair<float, int32_t>> sorted;
  double total = 0;
  for (int32_t i = 0; i < 3000; ++i) {
    sorted.emplace_back(-c.logits[i], i);
    total += std::exp(c.logits[i] / 1.3);
  }
  std::sort(sorted.begin(), sorted.end());
  std::map<int32_t, bool> kept;
  double sum = 0;
  for (const auto& [negative, id] : sorted) {
    kept[id] = true;
    sum += std::exp(-negative / 1.3) / total;
    if (sum >= 0.9) break;
  }
  for (const auto& [id, count] : Histogram(c, 3000)) EXPECT_TRUE(kept.contains(id)) << id;
}

TEST(SamplingTest, MinPIsRelativeToTheBest) {
  Case c({std::log(0.5F), std::log(0.26F), std::log(0.24F)});
  c.row.temperature = 1;
  c.row.min_p = 0.5F;
  const auto seen = Histogram(c, 300);
  EXPECT_EQ(seen.size(), 2U);
  EXPECT_FALSE(seen.contains(2));
}

TEST(SamplingTest, FiltersComeAfterTemperature) {
  Case c({2.0F, 0.0F});
  c.row.temperature = 10;  // weights 1 and 0.82
  c.row.min_p = 0.8F;
  EXPECT_EQ(Histogram(c, 200).size(), 2U);
}

TEST(SamplingTest, BiasComesBeforeTheMask) {
  Case c({0, 0, 0});
  const int32_t ids[] = {2};
  const float values[] = {100};
  c.row.bias_tokens = ids;
  c.row.bias_values = values;
  c.row.num_bias = 1;
  EXPECT_EQ(Sample(c).token, 2);
  const uint32_t mask = 0b011;
  c.row.mask = &mask;
  EXPECT_EQ(Sample(c).token, 0);
  const int32_t banned[] = {0};
  c.row.banned = banned;
  c.row.num_banned = 1;
  EXPECT_EQ(Sample(c).token, 1);
}

TEST(SamplingTest, RepetitionCountsPromptAndOutputOthersOutputOnly) {
  Case c({2.0F, 1.9F, 1.0F});
  c.History({{0, 1, 0}});
  c.row.presence_penalty = 2;
  EXPECT_EQ(Sample(c).token, 0);  // a prompt token is not penalised by presence
  c.History({{0, 1, 0}});
  c.row.presence_penalty = 0;
  c.row.repetition_penalty = 1.5F;
  EXPECT_EQ(Sample(c).token, 1);
}

TEST(SamplingTest, RepetitionDividesPositiveAndMultipliesNegative) {
  Case c({-1.0F, -1.5F});
  c.History({{0, 1, 0}});
  c.row.repetition_penalty = 2;
  EXPECT_EQ(Sample(c).token, 1);
}

TEST(SamplingTest, FrequencyGrowsWithEveryOwnToken) {
  Case c({1.0F, 0.55F});
  c.History({});
  c.row.frequency_penalty = 0.5F;
  EXPECT_EQ(Sample(c).token, 0);  // 1.0 against 0.55
  EXPECT_EQ(Sample(c).token, 1);  // 0.5 against 0.55
  EXPECT_EQ(Sample(c).token, 0);  // 0.5 against 0.05
  EXPECT_EQ(c.num_counts, 2);
  EXPECT_EQ(c.counts[0].in_output, 2);
}

TEST(SamplingTest, LogprobsAreOfTheRawLogits) {
  Case c({0.0F, 1.0F, 2.0F, 2.0F});
  const int32_t ids[] = {0};
  const float values[] = {100};
  c.row.bias_tokens = ids;
  c.row.bias_values = values;
  c.row.num_bias = 1;
  c.row.num_logprobs = 3;
  const Result r = Sample(c);
  const double log_sum = std::log(1 + std::exp(1.0) + 2 * std::exp(2.0));
  EXPECT_EQ(r.token, 0);
  EXPECT_NEAR(r.logprob, -log_sum, 1e-6);
  EXPECT_EQ(r.top, (std::vector<int32_t>{2, 3, 1}));
  EXPECT_NEAR(r.top_logprobs[0], 2 - log_sum, 1e-6);
}

TEST(SamplingTest, NanAndInfinityFailOnlyTheirRow) {
  std::vector<float> logits = {0, NAN, 0, 1, 0, kInf};
  SamplingRow rows[3] = {};
  for (int i = 0; i < 3; ++i) {
    rows[i].logit_row = i;
    rows[i].slot = i;
    rows[i].top_p = 1;
    rows[i].num_logprobs = -1;
  }
  int32_t slots[3];
  int32_t tokens[3];
  uint8_t status[3];
  SamplingArgs args{};
  args.logits = logits.data();
  args.num_logit_rows = 3;
  args.vocab = 2;
  args.rows = rows;
  args.num_rows = 3;
  args.slot_tokens = slots;
  args.tokens = tokens;
  args.status = status;
  SamplingScratch scratch;
  ASSERT_TRUE(SampleTokens(args, &scratch).ok());
  EXPECT_EQ(status[0], kRowNotFinite);
  EXPECT_EQ(status[1], kRowOk);
  EXPECT_EQ(tokens[1], 1);
  EXPECT_EQ(status[2], kRowNotFinite);
  args.num_logit_rows = 2;
  EXPECT_FALSE(SampleTokens(args, &scratch).ok());
}

TEST(SamplingTest, NothingAllowedIsAStatus) {
  Case c({1, 2});
  const uint32_t mask = 0;
  c.row.mask = &mask;
  const Result r = Sample(c);
  EXPECT_EQ(r.status, kRowNoCandidate);
  EXPECT_EQ(r.token, 0);
}

TEST(SamplingTest, ExtremeTemperaturesStayFinite) {
  Case c({1e30F, -1e30F, 3.0F});
  c.row.temperature = 1e-6F;
  EXPECT_EQ(Sample(c).token, 0);
  c.row.top_p = 0.5F;
  c.row.min_p = 0.1F;
  EXPECT_EQ(Sample(c).token, 0);
}

TEST(ScoringTest, GivesTheTargetsLogprob) {
  const float logits[] = {0, 1, 3, 0};
  const ScoringRow row{1, 0, 1};
  uint8_t status = 9;
  float logprob = 0;
  int32_t top = 0;
  float top_logprob = 0;
  ScoringArgs args{logits, 2, 2, &row, 1, 1, &status, &logprob, &top, &top_logprob};
  ASSERT_TRUE(ScoreTokens(args).ok());
  EXPECT_EQ(status, kRowOk);
  EXPECT_NEAR(logprob, -std::log(1 + std::exp(-3.0)), 1e-6);
  EXPECT_EQ(top, 0);
}

}  // namespace
}  // namespace fathom::kernels::cpu
