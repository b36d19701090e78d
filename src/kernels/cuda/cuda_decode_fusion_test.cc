// Decode attention with the rotary embedding fused into it: against the two operations one after
// the other on the GPU, whose bits it must repeat in the output and in the cache, and against the
// CPU's reference. Positions that nobody has written hold NaN, the slot of the step's own token
// too, so that whoever reads it early shows.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/cpu/ref_backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_testing.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/tolerance.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int32_t kLayers = 2;
constexpr float kNormEps = 1e-6F;

struct Shape {
  int32_t kv_heads, group, head_dim, block_tokens, window;
  std::vector<int32_t> contexts;  // of sequences with one token each
  int32_t padding = 0;            // rows behind them, and as many empty sequences
};

// Softmax weights spread what the rounding of rotated heads made of the scores.
double Tolerance(DType dtype) { return dtype == DType::kF16 ? 8e-3 : 4 * OpTolerance(dtype); }

// Where the tensors of a batch lie, on the host or on the device.
struct Pointers {
  void* arena;
  void* qkv;
  void* out;
  const void* cos_sin;
  const void* q_norm;  // null: no norms
  const void* k_norm;
  const void* tables;
  const void* token_slots;
  const void* kv_positions;
  const void* spans;
};

// Random inputs, rounded to a storage type; everything public is what the tensors hold.
class Batch {
 public:
  // Sequences may grow by so many tokens.
  Batch(const Shape& shape, DType dtype, bool with_norm, uint32_t seed, int32_t growth = 0)
      : shape(shape), dtype(dtype), with_norm(with_norm), random_(seed) {
    const auto count = static_cast<int32_t>(shape.contexts.size());
    num_tokens = count + shape.padding;
    max_blocks_ = (*std::ranges::max_element(shape.contexts) + growth) / shape.block_tokens + 1;
    std::vector<int32_t> slots(count);
    std::iota(slots.begin(), slots.end(), 0);
    std::ranges::shuffle(slots, random_);
    token_slots.assign(num_tokens, 0);
    kv_positions.assign(num_tokens, -1);
    for (int32_t i = 0; i < count; ++i) {
      spans.push_back({slots[i], i, 1, shape.contexts[i]});
      token_slots[i] = slots[i];
      kv_positions[i] = shape.contexts[i];
    }
    // As the decoder pads; one among the others is as good as behind them.
    for (int32_t i = 0; i < shape.padding; ++i) spans.emplace_back();
    if (shape.padding > 0) std::rotate(spans.begin() + 1, spans.end() - 1, spans.end());
    tables.resize(static_cast<size_t>(count) * max_blocks_);
    std::iota(tables.begin(), tables.end(), 0);
    std::ranges::shuffle(tables, random_);
    plane_ = static_cast<size_t>(shape.kv_heads) * shape.block_tokens * shape.head_dim;
    arena.assign(tables.size() * 2 * kLayers * plane_ * SizeOf(dtype), static_cast<char>(kPoison));
    for (const SequenceSpan& span : spans) FillCache(span);
    q_norm = Random(shape.head_dim);
    k_norm = Random(shape.head_dim);
    NextToken();
  }

  // What another step of the model brings.
  void NextToken() {
    qkv = Stored(Random(static_cast<size_t>(num_tokens) * QkvRow()), dtype);
    cos_sin.clear();
    std::uniform_real_distribution<float> angle(-3, 3);
    for (int32_t token = 0; token < num_tokens; ++token) {
      std::vector<float> angles(shape.head_dim / 2);
      for (float& a : angles) a = angle(random_);
      for (const float a : angles) cos_sin.push_back(1.1F * std::cos(a));
      for (const float a : angles) cos_sin.push_back(1.1F * std::sin(a));
    }
  }
  void Grow() {
    for (SequenceSpan& span : spans) span.context_len += span.query_len;
    for (int32_t& position : kv_positions) position += position < 0 ? 0 : 1;
  }

  int32_t QkvRow() const { return shape.kv_heads * (shape.group + 2) * shape.head_dim; }
  int32_t OutRow() const { return shape.kv_heads * shape.group * shape.head_dim; }

  RotaryKvWriteArgs Write(const Pointers& at, DType stored, int32_t layer) const {
    RotaryKvWriteArgs args;
    args.qkv = at.qkv;
    args.cos_sin = static_cast<const float*>(at.cos_sin);
    args.q_norm_weight = with_norm ? static_cast<const float*>(at.q_norm) : nullptr;
    args.k_norm_weight = with_norm ? static_cast<const float*>(at.k_norm) : nullptr;
    args.token_slots = static_cast<const int32_t*>(at.token_slots);
    args.kv_positions = static_cast<const int32_t*>(at.kv_positions);
    args.kv = Cache(at, stored, layer);
    args.num_tokens = num_tokens;
    args.num_q_heads = shape.kv_heads * shape.group;
    args.norm_eps = kNormEps;
    args.dtype = stored;
    return args;
  }
  PagedAttentionArgs Attend(const Pointers& at, DType stored, int32_t layer) const {
    PagedAttentionArgs args;
    args.out = at.out;
    args.qkv = at.qkv;
    args.sequences = static_cast<const SequenceSpan*>(at.spans);
    args.kv = Cache(at, stored, layer);
    args.num_sequences = static_cast<int32_t>(spans.size());
    args.num_tokens = num_tokens;
    args.max_query_len = 1;
    args.num_decodes = args.num_sequences;
    args.num_q_heads = shape.kv_heads * shape.group;
    args.window = shape.window;
    args.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    args.dtype = stored;
    return args;
  }
  PagedAttentionArgs AttendFused(const Pointers& at, DType stored, int32_t layer) const {
    PagedAttentionArgs args = Attend(at, stored, layer);
    const RotaryKvWriteArgs write = Write(at, stored, layer);
    args.rotary = {write.cos_sin, write.q_norm_weight, write.k_norm_weight, write.norm_eps};
    return args;
  }

  const Shape shape;
  const DType dtype;
  const bool with_norm;
  int32_t num_tokens = 0;
  std::vector<char> arena, qkv;
  std::vector<float> cos_sin, q_norm, k_norm;
  std::vector<int32_t> tables, token_slots, kv_positions;
  std::vector<SequenceSpan> spans;

 private:
  KvCacheView Cache(const Pointers& at, DType stored, int32_t layer) const {
    const auto plane_bytes = static_cast<int64_t>(plane_ * SizeOf(stored));
    KvCacheView kv;
    kv.arena = at.arena;
    kv.block_tables = static_cast<const int32_t*>(at.tables);
    kv.block_bytes = 2 * kLayers * plane_bytes;
    kv.layer_offset = 2 * layer * plane_bytes;
    kv.value_offset = kv.layer_offset + plane_bytes;
    kv.max_blocks = max_blocks_;
    kv.block_tokens = shape.block_tokens;
    kv.num_kv_heads = shape.kv_heads;
    kv.head_dim = shape.head_dim;
    return kv;
  }
  // All planes of all positions before the sequence's token, each row a stretch of noise.
  void FillCache(const SequenceSpan& span) {
    const size_t element = SizeOf(dtype);
    const size_t row_bytes = shape.head_dim * element;
    for (int32_t position = 0; position < span.context_len; ++position) {
      const auto block = static_cast<size_t>(
          tables[static_cast<size_t>(span.slot) * max_blocks_ + position / shape.block_tokens]);
      for (size_t plane = 0; plane < 2 * kLayers; ++plane) {
        for (int32_t head = 0; head < shape.kv_heads; ++head) {
          const size_t row =
              static_cast<size_t>(head) * shape.block_tokens + position % shape.block_tokens;
          char* to = arena.data() + (block * 2 * kLayers + plane) * plane_ * element;
          const size_t from = random_() % (noise_.size() - row_bytes) / element * element;
          std::memcpy(to + row * row_bytes, noise_.data() + from, row_bytes);
        }
      }
    }
  }
  std::vector<float> Random(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& v : values) v = normal(random_);
    return values;
  }

  std::mt19937 random_;
  const std::vector<char> noise_ = Stored(Random(1 << 16), dtype);
  int32_t max_blocks_ = 0;
  size_t plane_ = 0;
};

// The batch on the device, an output for each layer.
class DeviceBatch {
 public:
  explicit DeviceBatch(const Batch& batch)
      : batch_(batch),
        arena_(batch.arena),
        qkv_(batch.qkv),
        out_(kLayers * OutBytes()),
        cos_sin_(batch.cos_sin),
        q_norm_(batch.q_norm),
        k_norm_(batch.k_norm),
        tables_(batch.tables),
        token_slots_(batch.token_slots),
        kv_positions_(batch.kv_positions),
        spans_(batch.spans) {
    cudaDeviceProp properties;
    ExpectCuda(cudaGetDeviceProperties(&properties, 0));
    hints_.num_multiprocessors = properties.multiProcessorCount;
    hints_.num_decodes = static_cast<int32_t>(batch.spans.size());
    workspace_ =
        std::make_unique<DeviceBytes>(AttentionWorkspaceBytes(hints_.num_multiprocessors), 0xFF);
    ExpectCuda(PrepareAttention());
  }

  void Reset() {
    arena_.Assign(batch_.arena);
    out_.Fill(kPoison);
  }
  // After a step of the batch.
  void Update() {
    cos_sin_.Assign(batch_.cos_sin);
    kv_positions_.Assign(batch_.kv_positions);
    spans_.Assign(batch_.spans);
  }
  Pointers At(int32_t layer) const {
    return {
        arena_.data(),   qkv_.data(),         static_cast<char*>(out_.data()) + layer * OutBytes(),
        cos_sin_.data(), q_norm_.data(),      k_norm_.data(),
        tables_.data(),  token_slots_.data(), kv_positions_.data(),
        spans_.data()};
  }
  void LaunchFused(int32_t layer, bool settled, cudaStream_t stream) {
    hints_.settled = settled;
    Attend(batch_.AttendFused(At(layer), batch_.dtype, layer), stream);
  }
  void LaunchPair(int32_t layer, cudaStream_t stream) {
    ExpectCuda(LaunchRotaryKvWrite(batch_.Write(At(layer), batch_.dtype, layer), stream));
    Attend(batch_.Attend(At(layer), batch_.dtype, layer), stream);
  }

  std::vector<char> Output() const { return out_.ToHost(); }
  std::vector<char> Arena() const { return arena_.ToHost(); }
  std::vector<char> Qkv() const { return qkv_.ToHost(); }
  void ExpectWorkspaceRestored() const {
    const std::vector<char> bytes = workspace_->ToHost();
    EXPECT_TRUE(std::ranges::all_of(bytes, [](char c) { return c == static_cast<char>(0xFF); }));
  }

 private:
  size_t OutBytes() const {
    return static_cast<size_t>(batch_.num_tokens) * batch_.OutRow() * SizeOf(batch_.dtype);
  }
  void Attend(const PagedAttentionArgs& args, cudaStream_t stream) {
    ExpectCuda(LaunchPagedAttention(args, hints_, workspace_->data(), workspace_->size(), stream));
  }

  const Batch& batch_;
  AttentionHints hints_;
  DeviceBytes arena_, qkv_, out_, cos_sin_, q_norm_, k_norm_;
  DeviceBytes tables_, token_slots_, kv_positions_, spans_;
  std::unique_ptr<DeviceBytes> workspace_;
};

// Rows are heads; NaN must lie alike.
void ExpectNear(const std::vector<float>& got, const std::vector<float>& want, size_t row,
                double tolerance) {
  ASSERT_GE(got.size(), want.size());
  for (size_t begin = 0; begin < want.size(); begin += row) {
    double difference = 0;
    double highest = 1e-30;
    for (size_t i = begin; i < begin + row; ++i) {
      ASSERT_EQ(std::isnan(got[i]), std::isnan(want[i])) << "head " << i / row;
      if (std::isnan(want[i])) continue;
      difference = std::max(difference, std::abs(static_cast<double>(got[i]) - want[i]));
      highest = std::max(highest, std::abs(static_cast<double>(want[i])));
    }
    ASSERT_LE(difference / highest, tolerance) << "head " << begin / row;
  }
}

// Holds the first layer's output and cache against the CPU, in F32 where it stores nothing smaller.
void ExpectLikeReference(const Batch& batch, const std::vector<char>& output,
                         const std::vector<char>& arena) {
  const DType stored = batch.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  std::vector<char> ref_arena = Stored(Widened(batch.arena, batch.dtype), stored);
  std::vector<char> qkv = Stored(Widened(batch.qkv, batch.dtype), stored);
  const size_t rows = batch.shape.contexts.size();
  std::vector<char> out(rows * batch.OutRow() * SizeOf(stored));
  const Pointers at = {
      ref_arena.data(),          qkv.data(),          out.data(),          batch.cos_sin.data(),
      batch.q_norm.data(),       batch.k_norm.data(), batch.tables.data(), batch.token_slots.data(),
      batch.kv_positions.data(), batch.spans.data()};
  const auto backend = cpu::CreateRefBackend();
  RotaryKvWriteArgs write = batch.Write(at, stored, 0);
  write.num_tokens = static_cast<int32_t>(rows);
  ASSERT_TRUE(backend->RotaryKvWrite(write).ok());
  ASSERT_TRUE(backend->PagedAttention(batch.Attend(at, stored, 0)).ok());
  const auto dim = static_cast<size_t>(batch.shape.head_dim);
  ExpectNear(Widened(output, batch.dtype), Widened(out, stored), dim, Tolerance(batch.dtype));
  ExpectNear(Widened(arena, batch.dtype), Widened(ref_arena, stored), dim,
             2 * OpTolerance(DType::kBF16));
}

void CheckBatch(const Batch& batch) {
  DeviceBatch pair(batch);
  pair.LaunchPair(0, nullptr);
  const std::vector<char> want = pair.Output();
  const std::vector<char> want_arena = pair.Arena();

  DeviceBatch fused(batch);
  for (int repeat = 0; repeat < 4; ++repeat) {
    fused.Reset();
    fused.LaunchFused(0, repeat % 2 == 1, nullptr);
    ASSERT_TRUE(fused.Output() == want) << "the output's bits differ, repeat " << repeat;
    ASSERT_TRUE(fused.Arena() == want_arena) << "the cache's bits differ, repeat " << repeat;
  }
  ASSERT_TRUE(fused.Qkv() == batch.qkv) << "wrote to qkv";
  fused.ExpectWorkspaceRestored();
  const size_t row_bytes = batch.OutRow() * SizeOf(batch.dtype);
  for (size_t i = batch.shape.contexts.size() * row_bytes; i < want.size(); ++i) {
    ASSERT_EQ(static_cast<unsigned char>(want[i]), kPoison) << "wrote to padding or another layer";
  }
  ExpectLikeReference(batch, want, want_arena);
}

class CudaDecodeFusionTest : public testing::TestWithParam<std::tuple<DType, bool>> {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "there is no GPU";
  }
  void Check(const Shape& shape, uint32_t seed) {
    const auto [dtype, with_norm] = GetParam();
    SCOPED_TRACE(testing::Message()
                 << shape.kv_heads << " kv heads, group " << shape.group << ", dim "
                 << shape.head_dim << ", block " << shape.block_tokens << ", window "
                 << shape.window << ", " << shape.contexts.size() << " sequences from "
                 << shape.contexts[0] << ", padding " << shape.padding << ", seed " << seed);
    CheckBatch(Batch(shape, dtype, with_norm, seed));
  }
};

TEST_P(CudaDecodeFusionTest, EveryHeadDimAndGroup) {
  const std::vector<int32_t> contexts = {0, 1, 15, 16, 17, 63, 64, 150};
  for (const int32_t head_dim : {64, 96, 128, 256}) {
    for (const int32_t group : {1, 2, 4, 7, 8, 9, 16, 20}) {
      ASSERT_NO_FATAL_FAILURE(Check({2, group, head_dim, 16, 0, contexts}, 1));
    }
  }
}

TEST_P(CudaDecodeFusionTest, BordersOfBlocksChunksAndShares) {
  for (const int32_t block_tokens : {8, 16, 24, 64}) {
    // Alone, a sequence is cut every few chunks of 16 positions.
    for (const int32_t context : {7, 8, 23, 24, 62, 63, 64, 127, 128, 191, 192, 1023, 1024}) {
      ASSERT_NO_FATAL_FAILURE(Check({1, 4, 128, block_tokens, 0, {context}}, 2));
      ASSERT_NO_FATAL_FAILURE(Check({3, 2, 64, block_tokens, 0, {context}}, 3));
    }
  }
}

TEST_P(CudaDecodeFusionTest, Windows) {
  const std::vector<int32_t> contexts = {0, 1, 15, 16, 30, 31, 32, 33, 34, 47, 48, 500};
  for (const int32_t window : {1, 2, 16, 17, 33, 1000}) {
    ASSERT_NO_FATAL_FAILURE(Check({2, 4, 128, 16, window, contexts, 2}, 4));
    ASSERT_NO_FATAL_FAILURE(Check({1, 7, 96, 8, window, contexts}, 5));
  }
}

TEST_P(CudaDecodeFusionTest, MoreSequencesThanBlocks) {
  ASSERT_NO_FATAL_FAILURE(Check({2, 4, 128, 16, 0, std::vector<int32_t>(300, 37), 20}, 6));
  ASSERT_NO_FATAL_FAILURE(Check({1, 8, 64, 16, 0, std::vector<int32_t>(500, 0), 12}, 7));
}

TEST_P(CudaDecodeFusionTest, RandomRaggedBatches) {
  for (uint32_t seed = 100; seed < 124; ++seed) {
    std::mt19937 random(seed);
    const auto one_of = [&](auto... values) {
      const std::array all = {values...};
      return all[random() % all.size()];
    };
    Shape shape = {one_of(1, 2, 4),   one_of(1, 2, 4, 7, 8), one_of(64, 96, 128),
                   one_of(8, 16, 32), one_of(0, 0, 40),      {},
                   one_of(0, 1, 5)};
    shape.contexts.resize(one_of(1, 3, 12, 40));
    const int32_t longest = one_of(20, 200, 900);
    for (int32_t& context : shape.contexts) context = static_cast<int32_t>(random() % longest);
    ASSERT_NO_FATAL_FAILURE(Check(shape, seed));
  }
}

// Two layers a step as a graph replays them, the queries made by a kernel just before: the cache
// that one step writes is what the next reads, ahead of time.
TEST_P(CudaDecodeFusionTest, StepsReplayedAsAGraph) {
  constexpr int32_t kSteps = 40;
  const auto [dtype, with_norm] = GetParam();
  Batch batch({2, 4, 128, 16, 0, {0, 5, 30, 620, 1000}, 3}, dtype, with_norm, 8, kSteps);
  DeviceBatch fused(batch);
  DeviceBatch pair(batch);
  std::vector<int32_t> order(batch.num_tokens);
  std::iota(order.begin(), order.end(), 0);
  const DeviceBytes indices(order);
  DeviceBytes source(batch.qkv);
  cudaStream_t stream;
  ExpectCuda(cudaStreamCreate(&stream));
  const auto project = [&](const DeviceBatch& to) {
    GatherRowsArgs args;
    args.out = to.At(0).qkv;
    args.x = source.data();
    args.indices = static_cast<const int32_t*>(indices.data());
    args.rows = batch.num_tokens;
    args.dim = batch.QkvRow();
    args.dtype = dtype;
    ExpectCuda(LaunchGatherRows(args, stream));
  };
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ExpectCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    project(fused);
    fused.LaunchFused(layer, true, stream);
  }
  ExpectCuda(cudaStreamEndCapture(stream, &graph));
  ExpectCuda(cudaGraphInstantiate(&exec, graph, 0));
  for (int32_t step = 0; step < kSteps; ++step) {
    source.Assign(batch.qkv);
    fused.Update();
    pair.Update();
    ExpectCuda(cudaDeviceSynchronize());
    ExpectCuda(cudaGraphLaunch(exec, stream));
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      project(pair);
      ExpectCuda(cudaStreamSynchronize(stream));
      pair.LaunchPair(layer, stream);
    }
    ExpectCuda(cudaStreamSynchronize(stream));
    ASSERT_TRUE(fused.Output() == pair.Output()) << "step " << step;
    batch.Grow();
    batch.NextToken();
  }
  EXPECT_TRUE(fused.Arena() == pair.Arena());
  ExpectCuda(cudaGraphExecDestroy(exec));
  ExpectCuda(cudaGraphDestroy(graph));
  ExpectCuda(cudaStreamDestroy(stream));
}

INSTANTIATE_TEST_SUITE_P(All, CudaDecodeFusionTest,
                         testing::Combine(testing::Values(DType::kBF16, DType::kF16),
                                          testing::Bool()),
                         [](const auto& info) {
                           return std::string(Name(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "_Norm" : "_NoNorm");
                         });

TEST(CudaDecodeFusionArgsTest, TakesWhatTheDecodeKernelTakes) {
  const auto args_of = [](const Shape& shape, DType dtype) {
    const Batch batch(shape, dtype, true, 9);
    alignas(16) char memory[16];
    return batch.AttendFused(
        {memory, memory, memory, memory, memory, memory, memory, memory, memory, memory}, dtype, 0);
  };
  const Shape good = {2, 4, 128, 16, 0, {3}};
  EXPECT_TRUE(FusesRotary(args_of(good, DType::kBF16)));
  EXPECT_TRUE(FusesRotary(args_of(good, DType::kF16)));
  EXPECT_FALSE(FusesRotary(args_of(good, DType::kF32)));
  EXPECT_FALSE(FusesRotary(args_of({2, 4, 40, 16, 0, {3}}, DType::kBF16)));
  EXPECT_FALSE(FusesRotary(args_of({2, 4, 128, 5, 0, {3}}, DType::kBF16)));
  PagedAttentionArgs prompt = args_of(good, DType::kBF16);
  prompt.max_query_len = 2;
  EXPECT_FALSE(FusesRotary(prompt));
  EXPECT_EQ(LaunchPagedAttention(prompt, {}, nullptr, 0, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace fathom::kernels::cuda
