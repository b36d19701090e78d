// Attention on the GPU against the reference in FP32 on the same (rounded) inputs.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>

#include "kernels/cpu/ref_backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_testing.h"
#include "kernels/tolerance.h"

namespace fathom::kernels::cuda {
namespace {

struct Case {
  const char* name;
  int32_t kv_heads, group, head_dim, block_tokens, window;
  std::vector<std::pair<int32_t, int32_t>> sequences;  // context_len, query_len
};

// The softmax adds FP32 sums in another order, twice; 16-bit types also round the weights and the
// result.
double Tolerance(DType dtype) {
  return dtype == DType::kF16 ? 2e-3 : OpTolerance(dtype) * (dtype == DType::kF32 ? 4 : 1);
}

std::vector<Case> Cases() {
  return {
      {"OneToken", 1, 1, 128, 16, 0, {{0, 1}}},
      {"DecodeShort", 2, 4, 128, 16, 0, {{0, 1}, {1, 1}, {14, 1}, {15, 1}, {16, 1}, {63, 1}}},
      {"DecodeLong", 2, 4, 128, 16, 0, {{5000, 1}, {3, 1}, {1023, 1}}},
      {"DecodeMany", 1, 4, 128, 16, 0, std::vector<std::pair<int32_t, int32_t>>(300, {37, 1})},
      {"DecodeGroup1", 3, 1, 128, 16, 0, {{700, 1}, {90, 1}}},
      {"DecodeGroup5", 2, 5, 64, 32, 0, {{700, 1}, {90, 1}}},
      {"DecodeGroup7Block8", 2, 7, 128, 8, 0, {{700, 1}, {91, 1}, {7, 1}, {8, 1}}},
      {"DecodeGroup8Dim256", 1, 8, 256, 16, 0, {{333, 1}, {64, 1}}},
      {"DecodeGroup16", 1, 16, 128, 16, 0, {{333, 1}, {64, 1}}},
      {"DecodeGroup20Dim96", 1, 20, 96, 24, 0, {{333, 1}, {64, 1}}},
      {"DecodeGroup9Dim256", 1, 9, 256, 16, 0, {{100, 1}}},
      {"DecodeWindow", 2, 4, 128, 16, 33, {{500, 1}, {31, 1}, {32, 1}, {33, 1}, {5, 1}}},
      {"DecodeWindow1Block8", 1, 2, 64, 8, 1, {{500, 1}, {0, 1}}},
      {"PrefillShort", 2, 4, 128, 16, 0, {{0, 2}, {0, 33}, {7, 64}, {100, 17}}},
      {"PrefillLong", 1, 4, 128, 16, 0, {{0, 300}, {900, 130}}},
      {"PrefillGroup1Dim64", 2, 1, 64, 16, 0, {{0, 200}, {63, 65}, {64, 64}}},
      {"PrefillGroup7Block8", 1, 7, 128, 8, 0, {{0, 90}, {129, 20}}},
      {"PrefillGroup5Dim96", 1, 5, 96, 24, 0, {{0, 90}, {129, 20}}},
      {"PrefillGroup2Dim256", 1, 2, 256, 32, 0, {{0, 90}, {129, 20}}},
      {"PrefillGroup16", 1, 16, 128, 16, 0, {{0, 50}, {300, 9}}},
      {"PrefillBlock24", 1, 4, 128, 24, 0, {{0, 300}, {129, 20}}},
      {"PrefillBlock64", 2, 4, 128, 64, 0, {{0, 150}, {129, 20}}},
      {"PrefillBlock128Dim64", 2, 2, 64, 128, 0, {{0, 150}, {129, 20}}},
      {"PrefillManySteps", 1, 1, 128, 16, 0, {{0, 1000}}},
      {"PrefillWindow", 2, 4, 128, 16, 50, {{0, 200}, {500, 70}, {10, 5}}},
      {"PrefillWindow1", 1, 3, 64, 16, 1, {{0, 40}, {100, 3}}},
      {"Mixed", 2, 4, 128, 16, 0, {{0, 100}, {1000, 1}, {5, 0}, {64, 40}, {0, 1}, {17, 1}}},
      {"MixedWindowDim64", 1, 8, 64, 16, 20, {{300, 1}, {0, 90}, {150, 1}, {64, 40}, {5, 1}}},
      {"OddHeadDim", 2, 3, 40, 16, 0, {{90, 1}, {0, 19}, {11, 2}}},
      {"OddBlockTokens", 3, 2, 128, 5, 0, {{90, 1}, {0, 19}, {11, 2}}},
      {"SmallHeadDimWindow", 1, 3, 30, 16, 7, {{70, 2}, {0, 5}, {9, 1}}},
  };
}

// One batch: random inputs on the host, rounded to a storage type, and the same on the device.
class Batch {
 public:
  Batch(const Case& shape, DType dtype, uint32_t seed)
      : shape_(shape), dtype_(dtype), random_(seed) {
    std::vector<int32_t> slots(shape.sequences.size());
    std::iota(slots.begin(), slots.end(), 0);
    std::ranges::shuffle(slots, random_);
    for (const auto& [context, query] : shape.sequences) {
      spans_.push_back({slots[spans_.size()], num_tokens_, query, context});
      num_tokens_ += query;
      max_blocks_ = std::max(max_blocks_, (context + query) / shape.block_tokens + 1);
    }
    tables_.resize(spans_.size() * max_blocks_);
    std::iota(tables_.begin(), tables_.end(), 0);
    std::ranges::shuffle(tables_, random_);
    plane_ = static_cast<size_t>(shape.kv_heads) * shape.block_tokens * shape.head_dim;
    // Two layers in a block; the second is used. Positions that nobody has written stay NaN.
    arena_.assign(tables_.size() * 4 * plane_, std::numeric_limits<float>::quiet_NaN());
    for (const SequenceSpan& span : spans_) WriteKeys(span, 0, span.context_len + span.query_len);
    qkv_ = Random(static_cast<size_t>(num_tokens_) * QkvHeads() * shape.head_dim);
  }

  int32_t num_tokens() const { return num_tokens_; }
  int32_t NumDecodes() const {
    return static_cast<int32_t>(
        std::ranges::count_if(spans_, [](const SequenceSpan& s) { return s.query_len == 1; }));
  }
  size_t OutCount() const {
    return static_cast<size_t>(num_tokens_) * shape_.kv_heads * shape_.group * shape_.head_dim;
  }
  std::vector<SequenceSpan>& spans() { return spans_; }
  std::vector<float>& arena() { return arena_; }
  const std::vector<float>& qkv() const { return qkv_; }
  const std::vector<int32_t>& tables() const { return tables_; }

  // Where the first element of a position's key (plane 2) or value (plane 3) lies in the arena.
  size_t ElementAt(const SequenceSpan& span, int32_t position, int32_t head, size_t plane) const {
    const auto block = static_cast<size_t>(
        tables_[static_cast<size_t>(span.slot) * max_blocks_ + position / shape_.block_tokens]);
    const size_t row =
        static_cast<size_t>(head) * shape_.block_tokens + position % shape_.block_tokens;
    return (block * 4 + plane) * plane_ + row * shape_.head_dim;
  }

  void WriteKeys(const SequenceSpan& span, int32_t begin, int32_t end) {
    for (int32_t position = begin; position < end; ++position) {
      for (int32_t head = 0; head < shape_.kv_heads; ++head) {
        for (const size_t plane : {2, 3}) {
          const std::vector<float> row = Random(shape_.head_dim);
          std::ranges::copy(row, arena_.begin() + ElementAt(span, position, head, plane));
        }
      }
    }
  }

  // Shapes and scalars; the pointers are the caller's.
  PagedAttentionArgs Args(DType dtype) const {
    const auto plane_bytes = static_cast<int64_t>(plane_ * SizeOf(dtype));
    PagedAttentionArgs args;
    args.kv.block_bytes = 4 * plane_bytes;
    args.kv.layer_offset = 2 * plane_bytes;
    args.kv.value_offset = 3 * plane_bytes;
    args.kv.max_blocks = max_blocks_;
    args.kv.block_tokens = shape_.block_tokens;
    args.kv.num_kv_heads = shape_.kv_heads;
    args.kv.head_dim = shape_.head_dim;
    args.num_sequences = static_cast<int32_t>(spans_.size());
    args.num_tokens = num_tokens_;
    args.num_q_heads = shape_.kv_heads * shape_.group;
    args.window = shape_.window;
    args.scale = 0.3F;
    args.dtype = dtype;
    return args;
  }

  std::vector<float> Reference() {
    std::vector<float> out(OutCount());
    PagedAttentionArgs args = Args(DType::kF32);
    args.out = out.data();
    args.qkv = qkv_.data();
    args.sequences = spans_.data();
    args.kv.arena = arena_.data();
    args.kv.block_tables = tables_.data();
    EXPECT_TRUE(cpu::CreateRefBackend()->PagedAttention(args).ok());
    return out;
  }

 private:
  int32_t QkvHeads() const { return shape_.kv_heads * (shape_.group + 2); }

  std::vector<float> Random(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& v : values) v = normal(random_);
    return Widened(Stored(values, dtype_), dtype_);
  }

  const Case& shape_;
  const DType dtype_;
  std::mt19937 random_;
  int32_t num_tokens_ = 0;
  int32_t max_blocks_ = 0;
  size_t plane_ = 0;
  std::vector<SequenceSpan> spans_;
  std::vector<int32_t> tables_;
  std::vector<float> arena_;
  std::vector<float> qkv_;
};

// A batch on the device.
class DeviceBatch {
 public:
  DeviceBatch(Batch& batch, DType dtype)
      : dtype_(dtype),
        arena_(Stored(batch.arena(), dtype)),
        qkv_(Stored(batch.qkv(), dtype)),
        tables_(batch.tables()),
        spans_(batch.spans()),
        out_(batch.OutCount() * SizeOf(dtype)) {
    cudaDeviceProp properties;
    ExpectCuda(cudaGetDeviceProperties(&properties, 0));
    hints.num_multiprocessors = properties.multiProcessorCount;
    hints.max_query_len = 1;
    for (const SequenceSpan& span : batch.spans()) {
      hints.max_query_len = std::max(hints.max_query_len, span.query_len);
    }
    workspace_ =
        std::make_unique<DeviceBytes>(AttentionWorkspaceBytes(hints.num_multiprocessors), 0xFF);
    ExpectCuda(PrepareAttention());
    args_ = batch.Args(dtype);
    args_.out = out_.data();
    args_.qkv = qkv_.data();
    args_.sequences = static_cast<const SequenceSpan*>(spans_.data());
    args_.kv.arena = arena_.data();
    args_.kv.block_tables = static_cast<const int32_t*>(tables_.data());
  }

  // After a change of the batch's spans and arena.
  void Update(Batch& batch) {
    spans_.Assign(batch.spans());
    arena_.Assign(Stored(batch.arena(), dtype_));
  }
  void Launch(cudaStream_t stream) {
    ExpectCuda(LaunchPagedAttention(args_, hints, workspace_->data(), workspace_->size(), stream));
  }
  void Poison() { out_.Fill(kPoison); }
  std::vector<char> Output() const { return out_.ToHost(); }
  void ExpectWorkspaceRestored() const {
    const std::vector<char> bytes = workspace_->ToHost();
    EXPECT_TRUE(std::ranges::all_of(bytes, [](char c) { return c == static_cast<char>(0xFF); }));
  }

  AttentionHints hints;

 private:
  const DType dtype_;
  DeviceBytes arena_;
  DeviceBytes qkv_;
  DeviceBytes tables_;
  DeviceBytes spans_;
  DeviceBytes out_;
  std::unique_ptr<DeviceBytes> workspace_;
  PagedAttentionArgs args_;
};

// Rows are heads; NaN and inf must lie alike.
void ExpectNear(const std::vector<float>& got, const std::vector<float>& want, size_t row,
                double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t begin = 0; begin < want.size(); begin += row) {
    double difference = 0;
    double highest = 1e-30;
    for (size_t i = begin; i < begin + row; ++i) {
      ASSERT_EQ(std::isnan(got[i]), std::isnan(want[i])) << "head " << i / row;
      if (std::isnan(want[i])) continue;
      if (std::isinf(want[i])) {
        ASSERT_EQ(got[i], want[i]) << "head " << i / row;
        continue;
      }
      difference = std::max(difference, std::abs(static_cast<double>(got[i]) - want[i]));
      highest = std::max(highest, std::abs(static_cast<double>(want[i])));
    }
    ASSERT_LE(difference / highest, tolerance) << "head " << begin / row;
  }
}

class CudaAttentionTest : public testing::TestWithParam<std::tuple<Case, DType>> {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "there is no GPU";
  }
};

TEST_P(CudaAttentionTest, MatchesReference) {
  const auto& [shape, dtype] = GetParam();
  Batch batch(shape, dtype, 42);
  DeviceBatch device(batch, dtype);
  device.Launch(nullptr);
  const std::vector<char> output = device.Output();
  ExpectNear(Widened(output, dtype), batch.Reference(), shape.head_dim, Tolerance(dtype));
  device.ExpectWorkspaceRestored();

  device.hints.num_decodes = batch.NumDecodes();
  for (int repeat = 0; repeat < 3; ++repeat) {
    device.Poison();
    device.Launch(nullptr);
    ASSERT_EQ(device.Output(), output) << "repeat " << repeat;
  }
}

std::string CaseName(const testing::TestParamInfo<std::tuple<Case, DType>>& info) {
  return std::string(std::get<0>(info.param).name) + "_" + Name(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(All, CudaAttentionTest,
                         testing::Combine(testing::ValuesIn(Cases()),
                                          testing::Values(DType::kF32, DType::kBF16, DType::kF16)),
                         CaseName);

class CudaAttentionGraphTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "there is no GPU";
  }
};

TEST_F(CudaAttentionGraphTest, ReplayFollowsGrowingSequences) {
  const Case shape = {"", 2, 4, 128, 16, 0, {{10, 1}, {300, 1}, {0, 1}}};
  // Room in the tables for what comes later.
  Case longest = shape;
  for (auto& [context, query] : longest.sequences) context += 700;
  Batch batch(longest, DType::kBF16, 7);
  for (size_t i = 0; i < shape.sequences.size(); ++i) {
    batch.spans()[i].context_len = shape.sequences[i].first;
  }
  DeviceBatch device(batch, DType::kBF16);
  cudaStream_t stream;
  ExpectCuda(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ExpectCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  device.Launch(stream);
  ExpectCuda(cudaStreamEndCapture(stream, &graph));
  ExpectCuda(cudaGraphInstantiate(&exec, graph, 0));
  for (const int32_t growth : {0, 1, 200, 400}) {
    for (SequenceSpan& span : batch.spans()) span.context_len += growth;
    device.Update(batch);
    device.Poison();
    ExpectCuda(cudaGraphLaunch(exec, stream));
    ExpectCuda(cudaStreamSynchronize(stream));
    ExpectNear(Widened(device.Output(), DType::kBF16), batch.Reference(), shape.head_dim,
               Tolerance(DType::kBF16));
  }
  ExpectCuda(cudaGraphExecDestroy(exec));
  ExpectCuda(cudaGraphDestroy(graph));
  ExpectCuda(cudaStreamDestroy(stream));
}

TEST_F(CudaAttentionGraphTest, NanAndInfGoWhereTheReferenceLetsThem) {
  const float inf = std::numeric_limits<float>::infinity();
  const Case shape = {"", 1, 4, 128, 16, 40, {{200, 1}, {200, 1}, {200, 1}, {200, 1}, {200, 1}}};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    Batch batch(shape, dtype, 9);
    const auto at = [&](size_t sequence, int32_t position, size_t plane) -> float& {
      return batch.arena()[batch.ElementAt(batch.spans()[sequence], position, 0, plane) + 5];
    };
    at(0, 190, 3) = std::nanf("");
    at(1, 190, 3) = inf;
    at(2, 190, 2) = std::nanf("");
    at(3, 190, 2) = inf;
    // Just before the window, in the same chunk as its first position.
    at(4, 160, 2) = inf;
    at(4, 160, 3) = std::nanf("");
    DeviceBatch device(batch, dtype);
    device.Launch(nullptr);
    ExpectNear(Widened(device.Output(), dtype), batch.Reference(), shape.head_dim,
               Tolerance(dtype));
  }
}

}  // namespace
}  // namespace fathom::kernels::cuda
