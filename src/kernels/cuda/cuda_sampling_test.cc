#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>

#include "kernels/cpu/sampling.h"
#include "kernels/cuda/cuda_sampling_testing.h"
#include "kernels/cuda/sampling.h"
#include "kernels/philox.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int32_t kWidth = 20;

SampleResult ResultOf(size_t rows) {
  SampleResult r;
  r.tokens.resize(rows, -7);
  r.slot_tokens.resize(rows, -7);
  r.status.resize(rows, 77);
  r.logprobs.resize(rows);
  r.top_tokens.resize(rows * kWidth);
  r.top_logprobs.resize(rows * kWidth);
  return r;
}

// Row i reads logit row i and writes slot i. Changes the rows' counts.
SampleResult SampleOnCpu(std::vector<TestRow>& rows, int32_t vocab) {
  SampleResult result = ResultOf(rows.size());
  cpu::SamplingScratch scratch;
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].Link();
    SamplingRow row = rows[i].row;
    row.logit_row = 0;
    row.slot = static_cast<int32_t>(i);
    SamplingArgs args{};
    args.logits = rows[i].logits.data();
    args.num_logit_rows = 1;
    args.vocab = vocab;
    args.rows = &row;
    args.num_rows = 1;
    args.max_logprobs = kWidth;
    args.slot_tokens = result.slot_tokens.data();
    args.tokens = &result.tokens[i];
    args.status = &result.status[i];
    args.logprobs = &result.logprobs[i];
    args.top_tokens = &result.top_tokens[i * kWidth];
    args.top_logprobs = &result.top_logprobs[i * kWidth];
    EXPECT_TRUE(cpu::SampleTokens(args, &scratch).ok());
  }
  return result;
}

// Device memory of rows; `counts` and `num_counts` are read back into the rows after a launch.
class DeviceRows {
 public:
  DeviceRows(std::vector<TestRow>& rows, int32_t vocab, DType dtype)
      : rows_(rows), vocab_(vocab), dtype_(dtype), logits_(Logits(rows, vocab, dtype)) {
    std::vector<SamplingRow> device_rows;
    for (TestRow& r : rows) {
      r.Link();
      SamplingRow row = r.row;
      row.logit_row = row.slot = static_cast<int32_t>(device_rows.size());
      row.bias_tokens = Put<int32_t>(r.bias_tokens);
      row.bias_values = Put<float>(r.bias_values);
      row.banned = Put<int32_t>(r.banned);
      if (row.mask != nullptr) row.mask = Put<uint32_t>(r.mask);
      row.num_counts = Put<int32_t>(std::span(&r.num_counts, 1));
      if (row.counts != nullptr) row.counts = Put<TokenCount>(r.counts);
      device_rows.push_back(row);
    }
    device_rows_ = std::make_unique<DeviceArray<SamplingRow>>(device_rows);
    host_rows_ = std::move(device_rows);
  }

  SampleResult Sample(int32_t first, int32_t count, cudaStream_t stream = nullptr) {
    const DeviceArray<int32_t> slots(rows_.size());
    const DeviceArray<int32_t> tokens(count);
    const DeviceArray<uint8_t> status(count);
    const DeviceArray<float> logprobs(count);
    const DeviceArray<int32_t> top_tokens(static_cast<size_t>(count) * kWidth);
    const DeviceArray<float> top_logprobs(static_cast<size_t>(count) * kWidth);
    const size_t workspace_bytes = SamplingWorkspaceBytes(count, vocab_);
    const DeviceArray<uint8_t> workspace(workspace_bytes);
    SamplingArgs args{};
    args.logits = logits_.get();
    args.num_logit_rows = static_cast<int32_t>(rows_.size());
    args.vocab = vocab_;
    args.rows = device_rows_->get() + first;
    args.num_rows = count;
    args.max_logprobs = kWidth;
    args.slot_tokens = slots.get();
    args.tokens = tokens.get();
    args.status = status.get();
    args.logprobs = logprobs.get();
    args.top_tokens = top_tokens.get();
    args.top_logprobs = top_logprobs.get();
    args.logits_dtype = dtype_;
    const DeviceArray<uint64_t> began(std::vector<uint64_t>{7});
    const DeviceArray<uint64_t> clock(static_cast<size_t>(count) + 1);
    args.clock = clock.get();
    Check(LaunchSampleTokens(args, began.get(), workspace.get(), workspace_bytes, stream));
    Check(cudaDeviceSynchronize());
    const std::vector<uint64_t> times = clock.Read();
    EXPECT_EQ(times[0], 7U);
    EXPECT_NE(*std::ranges::max_element(times), 0xEEEEEEEEEEEEEEEE) << "a row left no time";
    SampleResult result = {tokens.Read(),   slots.Read(),      status.Read(),
                           logprobs.Read(), top_tokens.Read(), top_logprobs.Read()};
    result.slot_tokens.erase(result.slot_tokens.begin(), result.slot_tokens.begin() + first);
    result.slot_tokens.resize(count);
    return result;
  }

  std::vector<TokenCount> Counts(size_t i) const {
    int32_t count = 0;
    Check(cudaMemcpy(&count, host_rows_[i].num_counts, sizeof(count), cudaMemcpyDeviceToHost));
    std::vector<TokenCount> counts(count);
    Check(cudaMemcpy(counts.data(), host_rows_[i].counts, count * sizeof(TokenCount),
                     cudaMemcpyDeviceToHost));
    return counts;
  }

 private:
  static std::vector<uint8_t> Logits(const std::vector<TestRow>& rows, int32_t vocab, DType dtype) {
    std::vector<uint8_t> bytes(rows.size() * vocab * SizeOf(dtype));
    for (size_t i = 0; i < rows.size() * vocab; ++i) {
      const float x = rows[i / vocab].logits[i % vocab];
      const BFloat16 narrow = ToBFloat16(x);
      if (dtype == DType::kF32) std::memcpy(&bytes[i * 4], &x, 4);
      if (dtype == DType::kBF16) std::memcpy(&bytes[i * 2], &narrow, 2);
    }
    return bytes;
  }
  template <typename V>
  V* Put(std::span<const V> values) {
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(values.data()),
                                         values.size_bytes());
    memory_.push_back(std::make_unique<DeviceArray<uint8_t>>(bytes));
    return reinterpret_cast<V*>(memory_.back()->get());
  }

  std::vector<TestRow>& rows_;
  const int32_t vocab_;
  const DType dtype_;
  const DeviceArray<uint8_t> logits_;
  std::vector<std::unique_ptr<DeviceArray<uint8_t>>> memory_;
  std::unique_ptr<DeviceArray<SamplingRow>> device_rows_;
  std::vector<SamplingRow> host_rows_;  // with device pointers
};

// The final logit of `token`, over the temperature, with its noise.
double ScoreOf(const TestRow& r, int32_t token) {
  double x = r.logits[token];
  for (size_t i = 0; i < r.bias_tokens.size(); ++i) {
    if (r.bias_tokens[i] == token) x += r.bias_values[i];
  }
  for (int32_t i = 0; i < r.num_counts && !r.counts.empty(); ++i) {
    const TokenCount& seen = r.counts[i];
    if (seen.token != token) continue;
    x = x > 0 ? x / r.row.repetition_penalty : x * r.row.repetition_penalty;
    if (seen.in_output > 0) {
      x -= r.row.presence_penalty + r.row.frequency_penalty * seen.in_output;
    }
  }
  const uint32_t draw =
      SamplingDraws(r.row.seed, r.row.choice, r.row.position, token / 4).v[token % 4];
  const double v = std::min((draw + 0.5) * 0x1p-32, 1.0 - 0x1p-24);
  return x / r.row.temperature - std::log(-std::log1p(-v));
}

// Whether another token than the CPU's is a matter of rounding: two scores next to each other, or a
// token at the edge of top-p or min-p.
bool IsRounding(const TestRow& before, int32_t vocab, int32_t cpu_token, int32_t token) {
  if (before.row.temperature == 0) return false;
  const double a = ScoreOf(before, cpu_token);
  const double b = ScoreOf(before, token);
  if (std::abs(a - b) <= 1e-4 * std::max(1.0, std::abs(a))) return true;
  for (const float factor : {1.0F - 2e-5F, 1.0F + 2e-5F}) {
    std::vector<TestRow> moved = {before};
    if (before.row.top_p < 1) moved[0].row.top_p *= factor;
    moved[0].row.min_p *= factor;
    if (SampleOnCpu(moved, vocab).tokens[0] == token) return true;
  }
  return false;
}

// Log-probabilities; infinities equal themselves, and a row without mass has NaN.
bool Near(float a, float b) {
  return a == b || std::abs(a - b) <= 1e-4F || (std::isnan(a) && std::isnan(b));
}

struct Tally {
  int rows = 0;
  int others = 0;  // other tokens than the CPU's, for rounding
};

void Compare(std::vector<TestRow> rows, int32_t vocab, DType dtype, int32_t launch, Tally* tally) {
  const std::vector<TestRow> before = rows;
  DeviceRows device(rows, vocab, dtype);
  const SampleResult cpu = SampleOnCpu(rows, vocab);
  const auto total = static_cast<int32_t>(rows.size());
  for (int32_t first = 0; first < total; first += launch) {
    const SampleResult gpu = device.Sample(first, std::min(launch, total - first));
    for (int32_t k = 0; k < static_cast<int32_t>(gpu.tokens.size()); ++k) {
      const int32_t i = first + k;
      SCOPED_TRACE(testing::Message()
                   << "vocab " << vocab << " row " << i << " of " << total << " temperature "
                   << rows[i].row.temperature << " top_k " << rows[i].row.top_k << " top_p "
                   << rows[i].row.top_p << " min_p " << rows[i].row.min_p);
      ++tally->rows;
      ASSERT_EQ(gpu.status[k], cpu.status[i]);
      EXPECT_EQ(gpu.slot_tokens[k], gpu.tokens[k]);
      if (cpu.status[i] != kRowOk) {
        EXPECT_EQ(gpu.tokens[k], 0);
        continue;
      }
      const bool same = gpu.tokens[k] == cpu.tokens[i];
      if (!same) {
        ++tally->others;
        EXPECT_TRUE(IsRounding(before[i], vocab, cpu.tokens[i], gpu.tokens[k]))
            << gpu.tokens[k] << " instead of " << cpu.tokens[i];
      }
      if (same && !rows[i].counts.empty()) {
        const std::vector<TokenCount> counts = device.Counts(i);
        ASSERT_EQ(static_cast<int32_t>(counts.size()), rows[i].num_counts);
        EXPECT_EQ(
            std::memcmp(counts.data(), rows[i].counts.data(), counts.size() * sizeof(TokenCount)),
            0);
      }
      if (rows[i].row.num_logprobs < 0) continue;
      EXPECT_TRUE(!same || Near(gpu.logprobs[k], cpu.logprobs[i])) << gpu.logprobs[k];
      for (int32_t j = 0; j < kWidth; ++j) {
        ASSERT_EQ(gpu.top_tokens[k * kWidth + j], cpu.top_tokens[i * kWidth + j]) << j;
        EXPECT_TRUE(Near(gpu.top_logprobs[k * kWidth + j], cpu.top_logprobs[i * kWidth + j])) << j;
      }
    }
  }
}

class CudaSamplingTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }
};

void CompareRandomRows(DType dtype, std::initializer_list<int32_t> vocabs, int32_t count) {
  std::mt19937 random(dtype == DType::kF32 ? 1 : 2);
  Tally tally;
  for (const int32_t vocab : vocabs) {
    for (const int32_t launch : {1, 7, 40, 100, 300}) {
      std::vector<TestRow> rows;
      const int32_t wanted = launch == 1 ? count / 10 : count;
      for (int32_t i = 0; i < wanted; ++i) {
        rows.push_back(RandomRow(random, vocab, dtype == DType::kBF16));
      }
      Compare(std::move(rows), vocab, dtype, launch, &tally);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
  std::printf("%d rows, %d other tokens\n", tally.rows, tally.others);
  EXPECT_LE(tally.others * 1000, tally.rows);
}

TEST_F(CudaSamplingTest, SmallVocabulariesAsOnTheCpu) {
  CompareRandomRows(DType::kF32, {5, 31, 128, 129, 1000, 1037, 4099}, 300);
}

TEST_F(CudaSamplingTest, LargeVocabulariesAsOnTheCpu) {
  CompareRandomRows(DType::kF32, {32000, 50257, 128256, 200019}, 100);
}

TEST_F(CudaSamplingTest, Bf16AsOnTheCpu) {
  CompareRandomRows(DType::kBF16, {7, 129, 1037, 4100, 32001, 151936}, 100);
}

TEST_F(CudaSamplingTest, EverythingEqual) {
  constexpr int32_t kVocab = 6000;
  Tally tally;
  std::vector<TestRow> rows;
  for (const int32_t top_k : {0, 1, 40, 2048, 2049, 5999}) {
    for (const float top_p : {1.0F, 0.7F}) {
      for (uint32_t position = 0; position < 5; ++position) {
        TestRow& r = rows.emplace_back();
        r.logits.assign(kVocab, position % 2 == 0 ? 0.0F : 3.0F);
        if (position % 2 == 0) r.logits[4] = -0.0F;
        r.row.temperature = 1;
        r.row.top_k = top_k;
        r.row.top_p = top_p;
        r.row.position = position;
        r.row.num_logprobs = 20;
      }
    }
  }
  Compare(std::move(rows), kVocab, DType::kF32, 64, &tally);
  EXPECT_EQ(tally.others, 0);
}

TEST_F(CudaSamplingTest, ARowGivesTheSameInEveryBatch) {
  constexpr int32_t kVocab = 20011;
  std::mt19937 random(4);
  std::vector<TestRow> rows;
  for (int32_t i = 0; i < 280; ++i) {
    TestRow& r = rows.emplace_back(RandomRow(random, kVocab, false));
    r.counts.clear();  // sampling twice would change them
    r.row.num_logprobs = 5;
  }
  DeviceRows device(rows, kVocab, DType::kF32);
  const SampleResult all = device.Sample(0, 280);
  for (const int32_t launch : {1, 20, 100}) {
    for (int32_t first = 0; first + launch <= 280; first += std::max(launch, 9)) {
      const SampleResult part = device.Sample(first, launch);
      for (int32_t k = 0; k < launch; ++k) {
        EXPECT_EQ(part.tokens[k], all.tokens[first + k]);
        if (part.status[k] != kRowOk) continue;
        EXPECT_EQ(part.logprobs[k], all.logprobs[first + k]);
      }
    }
  }
}

TEST_F(CudaSamplingTest, FrequenciesFollowTheFilteredSoftmax) {
  constexpr int32_t kDraws = 20000;
  const std::vector<float> logits = {0.0F, 1.0F, 2.0F, -1.0F, 0.5F, -kInf, 1.5F};
  for (const bool filtered : {false, true}) {
    std::vector<TestRow> rows(kDraws);
    for (int32_t i = 0; i < kDraws; ++i) {
      rows[i].logits = logits;
      rows[i].row.temperature = 0.7F;
      rows[i].row.seed = 11;
      rows[i].row.position = static_cast<uint32_t>(i);
      if (filtered) rows[i].row.top_p = 0.9F;  // keeps 2, 6, 1
    }
    DeviceRows device(rows, static_cast<int32_t>(logits.size()), DType::kF32);
    std::vector<int> seen(logits.size());
    for (const int32_t token : device.Sample(0, kDraws).tokens) ++seen[token];
    std::vector<double> weights;
    double total = 0;
    for (const float x : logits) {
      weights.push_back(filtered && x < 1.0F ? 0 : std::exp(x / 0.7));
      total += weights.back();
    }
    double chi2 = 0;
    for (size_t id = 0; id < logits.size(); ++id) {
      const double expected = kDraws * weights[id] / total;
      if (expected == 0) {
        EXPECT_EQ(seen[id], 0) << id;
      } else {
        chi2 += (seen[id] - expected) * (seen[id] - expected) / expected;
      }
    }
    EXPECT_LT(chi2, 22.5);  // at most 5 degrees of freedom: p < 0.0005
  }
}

TEST_F(CudaSamplingTest, ScoresAsOnTheCpu) {
  std::mt19937 random(5);
  for (const int32_t vocab : {5, 129, 4099, 32000}) {
    constexpr int32_t kRows = 60;
    std::vector<float> logits;
    std::vector<ScoringRow> rows;
    for (int32_t i = 0; i < kRows; ++i) {
      const std::vector<float> row = RandomLogits(random, vocab);
      logits.insert(logits.end(), row.begin(), row.end());
      rows.push_back(
          {(i * 7) % kRows, static_cast<int32_t>(random() % vocab), OneOf(random, {0, 1, kWidth})});
    }
    SampleResult cpu = ResultOf(kRows);
    ScoringArgs args{};
    args.logits = logits.data();
    args.num_logit_rows = kRows;
    args.vocab = vocab;
    args.rows = rows.data();
    args.num_rows = kRows;
    args.max_logprobs = kWidth;
    args.status = cpu.status.data();
    args.logprobs = cpu.logprobs.data();
    args.top_tokens = cpu.top_tokens.data();
    args.top_logprobs = cpu.top_logprobs.data();
    ASSERT_TRUE(cpu::ScoreTokens(args).ok());

    const DeviceArray<float> device_logits{std::span<const float>(logits)};
    const DeviceArray<ScoringRow> device_rows{std::span<const ScoringRow>(rows)};
    const DeviceArray<uint8_t> status(kRows);
    const DeviceArray<float> logprobs(kRows);
    const DeviceArray<int32_t> top_tokens(kRows * kWidth);
    const DeviceArray<float> top_logprobs(kRows * kWidth);
    args.logits = device_logits.get();
    args.rows = device_rows.get();
    args.status = status.get();
    args.logprobs = logprobs.get();
    args.top_tokens = top_tokens.get();
    args.top_logprobs = top_logprobs.get();
    Check(LaunchScoreTokens(args, nullptr, 0, nullptr));
    Check(cudaDeviceSynchronize());
    ASSERT_EQ(status.Read(), cpu.status);
    for (int32_t i = 0; i < kRows; ++i) {
      if (cpu.status[i] != kRowOk) continue;
      const float logprob = logprobs.Read()[i];
      EXPECT_TRUE(Near(logprob, cpu.logprobs[i])) << logprob << " and " << cpu.logprobs[i];
      for (int32_t j = 0; j < kWidth; ++j) {
        EXPECT_EQ(top_tokens.Read()[i * kWidth + j], cpu.top_tokens[i * kWidth + j]);
      }
    }
  }
}

TEST_F(CudaSamplingTest, TooLittleWorkspaceIsRefused) {
  SamplingArgs args{};
  args.num_rows = 2;
  args.vocab = 100;
  EXPECT_EQ(LaunchSampleTokens(args, nullptr, nullptr, 0, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace fathom::kernels::cuda
