// Logits against what transformers computes in FP32 (tools/goldens/make_logit_goldens.py), for
// every family and backend, with the tokens fed in one go, in odd chunks and one by one.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#ifdef FATHOM_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif
#include "kernels/cpu/cpu_features.h"
#include "kernels/tolerance.h"
#include "worker/model/model_testing.h"

namespace fathom::worker {
namespace {

constexpr const char* kCases[] = {
    "tiny",           "llama_mha_bias_f32", "llama31_gqa4_tied", "llama_linear_f16",
    "mistral_window", "qwen2_gqa7_mixed",   "qwen3_dim128_tied", "qwen3_yarn_dim96_gqa7"};

using Case = std::tuple<const char*, DType, BackendKind, bool>;

ModelOptions OptionsOf(const Case& test) {
  const auto& [name, dtype, backend, invariant] = test;
  ModelOptions options;
  options.path = SourcePath(
      std::string(name) == "tiny" ? "models/tiny" : "tests/golden/logits/" + std::string(name));
  options.compute_dtype = dtype;
  options.backend = backend;
  options.batch_invariant = invariant;
  options.threads = 2;
  options.max_step_tokens = 512;
  return options;
}

double KlDivergence(const float* golden, const float* ours, int32_t vocab) {
  const auto log_sum = [vocab](const float* x) {
    const double highest = *std::max_element(x, x + vocab);
    double sum = 0;
    for (int32_t i = 0; i < vocab; ++i) sum += std::exp(x[i] - highest);
    return highest + std::log(sum);
  };
  const double p_sum = log_sum(golden);
  const double q_sum = log_sum(ours);
  double kl = 0;
  for (int32_t i = 0; i < vocab; ++i) {
    const double p = golden[i] - p_sum;
    kl += std::exp(p) * (p - (ours[i] - q_sum));
  }
  return kl;
}

// Tensor cores and AMX take the probabilities of attention rounded to the storage type, which other
// kernels keep in FP32: there a little more is lost.
double Tolerance(DType dtype, BackendKind backend) {
  const bool amx = kernels::cpu::DetectIsa() == kernels::cpu::Isa::kAmx;
  const bool rounds_more =
      (backend == BackendKind::kCuda || (backend == BackendKind::kFast && amx)) &&
      dtype != DType::kF32;
  return kernels::LogitTolerance(dtype) * (rounds_more ? 1.25 : 1);
}

// The worst row of `ours` against `golden`, both [rows, vocab].
void ExpectClose(const std::vector<float>& ours, const std::vector<float>& golden, int32_t vocab,
                 DType dtype, BackendKind backend) {
  ASSERT_EQ(ours.size(), golden.size());
  double worst = 0;
  double worst_kl = 0;
  for (size_t row = 0; row < golden.size(); row += vocab) {
    double difference = 0;
    double highest = 0;
    for (int32_t i = 0; i < vocab; ++i) {
      ASSERT_TRUE(std::isfinite(ours[row + i])) << "row " << row / vocab;
      difference = std::max(difference, std::abs(double{ours[row + i]} - golden[row + i]));
      highest = std::max(highest, std::abs(double{golden[row + i]}));
    }
    worst = std::max(worst, difference / highest);
    worst_kl = std::max(worst_kl, KlDivergence(&golden[row], &ours[row], vocab));
  }
  EXPECT_LE(worst, Tolerance(dtype, backend));
  EXPECT_LE(worst_kl, kernels::LogitKlTolerance(dtype));
  testing::Test::RecordProperty("worst", std::to_string(worst));
}

// Feeds a sequence in pieces of the given sizes (the last repeats) and gathers the golden rows.
std::vector<float> Feed(ModelHarness& harness, const GoldenSequence& golden, int32_t slot,
                        const std::vector<int32_t>& sizes) {
  std::vector<float> logits;
  const auto length = static_cast<int32_t>(golden.tokens.size());
  size_t step = 0;
  for (int32_t at = 0; at < length;) {
    const int32_t end = std::min(at + sizes[std::min(step++, sizes.size() - 1)], length);
    Piece piece = {slot, {golden.tokens.begin() + at, golden.tokens.begin() + end}, {}};
    for (const int32_t row : golden.rows) {
      if (row >= at && row < end) piece.rows.push_back(row - at);
    }
    const std::vector<float> out = harness.Step({piece});
    logits.insert(logits.end(), out.begin(), out.end());
    at = end;
  }
  return logits;
}

class DecoderGoldenTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
#ifdef FATHOM_CUDA
    if (std::get<2>(GetParam()) == BackendKind::kCuda && !kernels::cuda::QueryMemory(0).ok()) {
      GTEST_SKIP() << "no GPU";
    }
#endif
  }
  std::string GoldenPath() const {
    return SourcePath("tests/golden/logits/" + std::string(std::get<0>(GetParam())) +
                      "/golden.safetensors");
  }
  // The oracle takes its time over the one model that is not minute.
  bool IsSlow() const {
    return std::get<2>(GetParam()) == BackendKind::kRef &&
           std::string_view(std::get<0>(GetParam())) == "tiny";
  }
};

TEST_P(DecoderGoldenTest, MatchesTransformersHoweverTheTokensArrive) {
  const DType dtype = std::get<1>(GetParam());
  ModelHarness harness(OptionsOf(GetParam()), 7);
  std::vector<std::vector<int32_t>> ways = {{512}, {3, 17, 1, 31, 2, 5}, {1}, {64, 1}};
  if (IsSlow()) ways.resize(2);
  for (const GoldenSequence& golden : ReadGoldens(GoldenPath())) {
    for (size_t way = 0; way < ways.size(); ++way) {
      SCOPED_TRACE(testing::Message() << golden.tokens.size() << " tokens, way " << way);
      harness.Reset();
      const auto slot = static_cast<int32_t>(way % ModelHarness::kMaxSequences);
      ExpectClose(Feed(harness, golden, slot, ways[way]), golden.logits,
                  harness.config().vocab_size, dtype, std::get<2>(GetParam()));
    }
  }
}

TEST_P(DecoderGoldenTest, BatchAndChunkingChangeNoBitInBatchInvariantMode) {
  if (std::get<2>(GetParam()) != BackendKind::kRef && !std::get<3>(GetParam())) {
    GTEST_SKIP() << "not batch-invariant";
  }
  ModelHarness harness(OptionsOf(GetParam()), 11);
  const std::vector<GoldenSequence> sequences = ReadGoldens(GoldenPath());
  std::vector<std::vector<float>> alone;
  for (const GoldenSequence& golden : sequences) {
    harness.Reset();
    alone.push_back(Feed(harness, golden, 0, {512}));
  }
  std::mt19937 random(3);
  for (int round = 0; round < (IsSlow() ? 1 : 3); ++round) {
    harness.Reset();
    std::vector<std::vector<float>> together(sequences.size());
    for (;;) {
      std::vector<Piece> pieces;
      for (size_t i = 0; i < sequences.size(); ++i) {
        const auto slot = static_cast<int32_t>(i);
        const int32_t at = harness.length(slot);
        const int32_t left = static_cast<int32_t>(sequences[i].tokens.size()) - at;
        if (left == 0 || random() % 4 == 0) continue;
        const int32_t size = std::min<int32_t>(left, random() % 3 == 0 ? 1 : 1 + random() % 60);
        const auto begin = sequences[i].tokens.begin() + at;
        Piece& piece = pieces.emplace_back(Piece{slot, {begin, begin + size}, {}});
        for (const int32_t row : sequences[i].rows) {
          if (row >= at && row < at + size) piece.rows.push_back(row - at);
        }
      }
      const bool done = std::ranges::all_of(sequences, [&](const GoldenSequence& s) {
        return harness.length(static_cast<int32_t>(&s - sequences.data())) ==
               static_cast<int32_t>(s.tokens.size());
      });
      if (done) break;
      if (pieces.empty()) continue;
      const std::vector<float> out = harness.Step(pieces);
      auto next = out.begin();
      for (const Piece& piece : pieces) {
        const auto count = static_cast<int64_t>(piece.rows.size()) * harness.config().vocab_size;
        together[piece.slot].insert(together[piece.slot].end(), next, next + count);
        next += count;
      }
    }
    for (size_t i = 0; i < sequences.size(); ++i) {
      ASSERT_EQ(together[i].size(), alone[i].size());
      EXPECT_EQ(std::memcmp(together[i].data(), alone[i].data(), alone[i].size() * sizeof(float)),
                0)
          << "sequence " << i << ", round " << round;
    }
  }
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const auto& [name, dtype, backend, invariant] = info.param;
  const char* kind = backend == BackendKind::kRef    ? "_ref"
                     : backend == BackendKind::kFast ? "_fast"
                                                     : "_cuda";
  return std::string(name) + "_" + Name(dtype) + kind + (invariant ? "_invariant" : "");
}

// The F16 case is left out of BF16: there its weights themselves are rounded.
std::vector<Case> Cases(BackendKind backend, const std::vector<bool>& invariant) {
  std::vector<Case> cases;
  for (const char* name : kCases) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      if (dtype == DType::kF16 && backend != BackendKind::kCuda) continue;
      if (dtype == DType::kBF16 && std::string_view(name) == "llama_linear_f16") continue;
      for (const bool mode : invariant) cases.emplace_back(name, dtype, backend, mode);
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Reference, DecoderGoldenTest,
                         testing::ValuesIn(Cases(BackendKind::kRef, {true})), CaseName);
INSTANTIATE_TEST_SUITE_P(Fast, DecoderGoldenTest,
                         testing::ValuesIn(Cases(BackendKind::kFast, {false, true})), CaseName);
#ifdef FATHOM_CUDA
INSTANTIATE_TEST_SUITE_P(Cuda, DecoderGoldenTest,
                         testing::ValuesIn(Cases(BackendKind::kCuda, {false, true})), CaseName);
#endif

}  // namespace
}  // namespace fathom::worker
