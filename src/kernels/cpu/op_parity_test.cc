// Every operation of the fast backend against the reference, over many shapes, types and
// instruction sets. Outputs lie between guard bytes and start poisoned; where the reference is inf
// or NaN the fast backend must be too.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/cpu/fast_backend.h"
#include "kernels/cpu/ref_backend.h"
#include "kernels/tolerance.h"

namespace fathom::kernels::cpu {
namespace {

constexpr size_t kGuardBytes = 64;
constexpr unsigned char kGuard = 0xA5;

// Values of a storage type between guards.
class Tensor {
 public:
  Tensor(size_t count, DType dtype) : count_(count), dtype_(dtype) {
    bytes_.assign(count * SizeOf(dtype) + 2 * kGuardBytes, kGuard);
  }
  void* data() { return bytes_.data() + kGuardBytes; }
  size_t count() const { return count_; }
  float At(size_t i) const {
    const unsigned char* at = bytes_.data() + kGuardBytes + i * SizeOf(dtype_);
    if (dtype_ == DType::kF32) {
      float v;
      std::memcpy(&v, at, sizeof(v));
      return v;
    }
    BFloat16 v;
    std::memcpy(&v, at, sizeof(v));
    return ToFloat(v);
  }
  void Set(size_t i, float value) {
    unsigned char* at = bytes_.data() + kGuardBytes + i * SizeOf(dtype_);
    if (dtype_ == DType::kF32) {
      std::memcpy(at, &value, sizeof(value));
    } else {
      const BFloat16 rounded = ToBFloat16(value);
      std::memcpy(at, &rounded, sizeof(rounded));
    }
  }
  void ExpectGuardsWhole() const {
    for (size_t i = 0; i < kGuardBytes; ++i) {
      ASSERT_EQ(bytes_[i], kGuard) << "wrote before the output";
      ASSERT_EQ(bytes_[bytes_.size() - 1 - i], kGuard) << "wrote behind the output";
    }
  }

 private:
  size_t count_;
  DType dtype_;
  std::vector<unsigned char> bytes_;
};

void ExpectSame(const Tensor& fast, const Tensor& ref, size_t row, double tolerance) {
  fast.ExpectGuardsWhole();
  ASSERT_EQ(fast.count(), ref.count());
  for (size_t begin = 0; begin < ref.count(); begin += row) {
    double difference = 0;
    double highest = 1e-30;
    for (size_t i = begin; i < begin + row; ++i) {
      const double a = fast.At(i);
      const double b = ref.At(i);
      ASSERT_EQ(std::isnan(a), std::isnan(b)) << "element " << i << ": " << a << ", " << b;
      if (std::isnan(b)) continue;
      if (std::isinf(b)) {
        ASSERT_EQ(a, b) << "element " << i;
        continue;
      }
      difference = std::max(difference, std::abs(a - b));
      highest = std::max(highest, std::abs(b));
    }
    ASSERT_LE(difference / highest, tolerance) << "row " << begin / row;
  }
}

using Target = std::tuple<Isa, DType>;

class OpParityTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    const std::optional<Isa> best = DetectIsa();
    if (!best || *best < isa()) GTEST_SKIP() << "this machine lacks " << Name(isa());
    fast_ = CreateFastBackend({.threads = 3}, isa());
  }
  Isa isa() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  double tolerance() const { return OpTolerance(dtype()); }

  Tensor Random(size_t count, float scale = 1) { return Random(count, scale, dtype()); }
  Tensor Random(size_t count, float scale, DType type) {
    Tensor tensor(count, type);
    std::normal_distribution<float> normal(0, scale);
    for (size_t i = 0; i < count; ++i) tensor.Set(i, normal(random_));
    return tensor;
  }
  // All NaN: an output that nobody writes shows.
  Tensor Poison(size_t count) { return Poison(count, dtype()); }
  static Tensor Poison(size_t count, DType type) {
    Tensor tensor(count, type);
    for (size_t i = 0; i < count; ++i) tensor.Set(i, std::numeric_limits<float>::quiet_NaN());
    return tensor;
  }

  std::mt19937 random_{42};
  std::unique_ptr<Backend> ref_ = CreateRefBackend();
  std::unique_ptr<Backend> fast_;
};

TEST_P(OpParityTest, RmsNorm) {
  for (const int32_t dim : {1, 2, 7, 16, 31, 64, 96, 256, 1000, 4096}) {
    for (const int32_t rows : {1, 3, 40}) {
      for (const bool with_residual : {false, true}) {
        SCOPED_TRACE(testing::Message() << rows << "x" << dim << " residual " << with_residual);
        const size_t count = static_cast<size_t>(rows) * dim;
        Tensor x = Random(count);
        Tensor residual = Random(count);
        Tensor residual_ref = residual;
        Tensor weight = Random(dim, 1, DType::kF32);
        Tensor out = Poison(count);
        Tensor out_ref = Poison(count);
        RmsNormArgs args;
        args.x = x.data();
        args.weight = static_cast<float*>(weight.data());
        args.rows = rows;
        args.dim = dim;
        args.eps = 1e-6F;
        args.dtype = dtype();
        args.out = out.data();
        args.residual = with_residual ? residual.data() : nullptr;
        ASSERT_TRUE(fast_->RmsNorm(args).ok());
        args.out = out_ref.data();
        args.residual = with_residual ? residual_ref.data() : nullptr;
        ASSERT_TRUE(ref_->RmsNorm(args).ok());
        ExpectSame(out, out_ref, dim, tolerance());
        ExpectSame(residual, residual_ref, dim, 0);
      }
    }
  }
}

TEST_P(OpParityTest, RmsNormKeepsInfAndNan) {
  Tensor x = Random(3 * 20);
  x.Set(5, std::numeric_limits<float>::infinity());
  x.Set(27, std::numeric_limits<float>::quiet_NaN());
  Tensor weight = Random(20, 1, DType::kF32);
  Tensor out = Poison(60);
  Tensor out_ref = Poison(60);
  RmsNormArgs args;
  args.x = x.data();
  args.weight = static_cast<float*>(weight.data());
  args.rows = 3;
  args.dim = 20;
  args.dtype = dtype();
  args.out = out.data();
  ASSERT_TRUE(fast_->RmsNorm(args).ok());
  args.out = out_ref.data();
  ASSERT_TRUE(ref_->RmsNorm(args).ok());
  ExpectSame(out, out_ref, 20, tolerance());
}

TEST_P(OpParityTest, SiluMul) {
  for (const int32_t dim : {1, 9, 64, 73, 768}) {
    for (const int32_t rows : {1, 50}) {
      SCOPED_TRACE(testing::Message() << rows << "x" << dim);
      Tensor gate_up = Random(static_cast<size_t>(rows) * 2 * dim, 8);
      gate_up.Set(0, std::numeric_limits<float>::infinity());
      if (dim > 2) gate_up.Set(1, std::numeric_limits<float>::quiet_NaN());
      if (dim > 2) gate_up.Set(2, -1000);
      Tensor out = Poison(static_cast<size_t>(rows) * dim);
      Tensor out_ref = out;
      SiluMulArgs args;
      args.gate_up = gate_up.data();
      args.rows = rows;
      args.dim = dim;
      args.dtype = dtype();
      args.out = out.data();
      ASSERT_TRUE(fast_->SiluMul(args).ok());
      args.out = out_ref.data();
      ASSERT_TRUE(ref_->SiluMul(args).ok());
      ExpectSame(out, out_ref, dim, tolerance());
    }
  }
}

TEST_P(OpParityTest, Embedding) {
  for (const DType table_dtype : {DType::kF32, DType::kBF16}) {
    Tensor table = Random(10 * 33, 1, table_dtype);
    const std::vector<int32_t> ids = {9, 0, -1, 4, -1};
    const std::vector<int32_t> slots = {0, 0, 1, 1, 2};
    const std::vector<int32_t> slot_tokens = {1, 7, 1000};  // 1000: forced into the table
    Tensor out = Poison(5 * 33);
    Tensor out_ref = out;
    EmbeddingArgs args;
    args.table = table.data();
    args.token_ids = ids.data();
    args.token_slots = slots.data();
    args.slot_tokens = slot_tokens.data();
    args.num_tokens = 5;
    args.hidden = 33;
    args.vocab = 10;
    args.dtype = dtype();
    args.table_dtype = table_dtype;
    args.out = out.data();
    ASSERT_TRUE(fast_->Embedding(args).ok());
    args.out = out_ref.data();
    ASSERT_TRUE(ref_->Embedding(args).ok());
    ExpectSame(out, out_ref, 33, 0);
  }
}

TEST_P(OpParityTest, Linear) {
  struct Shape {
    int32_t rows, n, k;
  };
  const Shape shapes[] = {{1, 1, 1},    {1, 64, 64},   {1, 65, 33},    {2, 130, 96},
                          {3, 63, 17},  {4, 200, 128}, {5, 64, 1},     {6, 48, 31},
                          {7, 256, 64}, {13, 100, 40}, {48, 128, 50},  {49, 97, 129},
                          {64, 64, 64}, {130, 70, 96}, {200, 192, 256}};
  for (const Shape& shape : shapes) {
    for (const DType weight_dtype : {DType::kF32, DType::kBF16}) {
      for (const DType out_dtype : {DType::kF32, dtype()}) {
        for (const bool with_bias : {false, true}) {
          SCOPED_TRACE(testing::Message() << shape.rows << "x" << shape.n << "x" << shape.k
                                          << " weight " << Name(weight_dtype) << " out "
                                          << Name(out_dtype) << " bias " << with_bias);
          Tensor x = Random(static_cast<size_t>(shape.rows) * shape.k);
          Tensor weight = Random(static_cast<size_t>(shape.n) * shape.k,
                                 1 / std::sqrt(static_cast<float>(shape.k)), weight_dtype);
          Tensor bias = Random(shape.n, 1, DType::kF32);
          Tensor out = Poison(static_cast<size_t>(shape.rows) * shape.n, out_dtype);
          Tensor out_ref = out;
          // Two parts, stacked.
          const int32_t first = shape.n / 2;
          std::vector<TensorView> parts;
          if (first > 0) parts.push_back({weight.data(), weight_dtype, 2, {first, shape.k}});
          parts.push_back({static_cast<char*>(weight.data()) +
                               static_cast<size_t>(first) * shape.k * SizeOf(weight_dtype),
                           weight_dtype,
                           2,
                           {shape.n - first, shape.k}});
          auto packed = fast_->PackMatrix(parts, weight_dtype);
          auto packed_ref = ref_->PackMatrix(parts, weight_dtype);
          ASSERT_TRUE(packed.ok() && packed_ref.ok());
          LinearArgs args;
          args.x = x.data();
          args.bias = with_bias ? static_cast<float*>(bias.data()) : nullptr;
          args.rows = shape.rows;
          args.dtype = dtype();
          args.out_dtype = out_dtype;
          args.out = out.data();
          ASSERT_TRUE(fast_->Linear(args, **packed).ok());
          args.out = out_ref.data();
          ASSERT_TRUE(ref_->Linear(args, **packed_ref).ok());
          ExpectSame(out, out_ref, shape.n, std::max(OpTolerance(out_dtype), 2e-6));
        }
      }
    }
  }
}

TEST_P(OpParityTest, LinearKeepsNanInItsRow) {
  Tensor x = Random(20 * 64);
  x.Set(64 * 3 + 5, std::numeric_limits<float>::quiet_NaN());
  Tensor weight = Random(70 * 64, 0.1F);
  const TensorView part = {weight.data(), dtype(), 2, {70, 64}};
  auto packed = fast_->PackMatrix({&part, 1}, dtype());
  Tensor out = Poison(20 * 70);
  LinearArgs args;
  args.x = x.data();
  args.rows = 20;
  args.dtype = dtype();
  args.out_dtype = dtype();
  args.out = out.data();
  ASSERT_TRUE(fast_->Linear(args, **packed).ok());
  for (size_t i = 0; i < out.count(); ++i) {
    ASSERT_EQ(std::isnan(out.At(i)), i / 70 == 3) << i;
  }
}

TEST_P(OpParityTest, LinearSumsARowAlikeWhateverTheOthers) {
  constexpr int32_t kRows = 150;
  constexpr int32_t kCols = 96;
  constexpr int32_t kN = 130;
  const auto invariant = CreateFastBackend({.threads = 2, .batch_invariant = true}, isa());
  Tensor x = Random(kRows * kCols);
  Tensor weight = Random(kN * kCols, 0.1F);
  const TensorView part = {weight.data(), dtype(), 2, {kN, kCols}};
  auto packed = invariant->PackMatrix({&part, 1}, dtype());
  Tensor all = Poison(kRows * kN, DType::kF32);
  LinearArgs args;
  args.x = x.data();
  args.rows = kRows;
  args.dtype = dtype();
  args.out = all.data();
  ASSERT_TRUE(invariant->Linear(args, **packed).ok());
  for (int32_t first = 0; first < kRows;) {
    const int32_t rows = std::min<int32_t>(1 + random_() % 9, kRows - first);
    Tensor some = Poison(static_cast<size_t>(rows) * kN, DType::kF32);
    args.x = static_cast<char*>(x.data()) + static_cast<size_t>(first) * kCols * SizeOf(dtype());
    args.rows = rows;
    args.out = some.data();
    ASSERT_TRUE(invariant->Linear(args, **packed).ok());
    ASSERT_EQ(std::memcmp(some.data(), static_cast<float*>(all.data()) + first * kN,
                          static_cast<size_t>(rows) * kN * sizeof(float)),
              0)
        << "rows " << first << " to " << first + rows;
    first += rows;
  }
}

struct AttentionShape {
  int32_t kv_heads, group, head_dim, block_tokens, window;
  std::vector<std::pair<int32_t, int32_t>> sequences;  // context_len, query_len
};

// Rotary embedding, the write to the cache and attention over it, on both backends.
class AttentionParity {
 public:
  AttentionParity(const AttentionShape& shape, DType dtype, std::mt19937& random)
      : shape_(shape), dtype_(dtype) {
    for (const auto& [context, query] : shape.sequences) {
      spans_.push_back({static_cast<int32_t>(spans_.size()), num_tokens_, query, context});
      num_tokens_ += query;
      max_blocks_ = std::max(max_blocks_, (context + query - 1) / shape.block_tokens + 1);
    }
    const auto num_blocks = static_cast<int32_t>(spans_.size()) * max_blocks_;
    tables_.resize(num_blocks);
    std::iota(tables_.begin(), tables_.end(), 0);
    std::ranges::shuffle(tables_, random);
    plane_ = static_cast<size_t>(shape.kv_heads) * shape.block_tokens * shape.head_dim;
  }

  int32_t num_tokens() const { return num_tokens_; }
  const std::vector<SequenceSpan>& spans() const { return spans_; }
  // Two layers in a block; the second is used.
  size_t ArenaCount() const { return tables_.size() * 4 * plane_; }

  KvCacheView View(void* arena) const {
    const auto bytes = static_cast<int64_t>(plane_ * SizeOf(dtype_));
    KvCacheView view;
    view.arena = arena;
    view.block_tables = tables_.data();
    view.block_bytes = 4 * bytes;
    view.layer_offset = 2 * bytes;
    view.value_offset = 3 * bytes;
    view.max_blocks = max_blocks_;
    view.block_tokens = shape_.block_tokens;
    view.num_kv_heads = shape_.kv_heads;
    view.head_dim = shape_.head_dim;
    return view;
  }

  // What a cache holds for positions nobody has written must not matter.
  void PoisonUnwritten(Tensor& arena) const {
    for (const SequenceSpan& span : spans_) {
      const int32_t end = span.context_len + span.query_len;
      for (int32_t position = end; position < max_blocks_ * shape_.block_tokens; ++position) {
        const int32_t block = tables_[span.slot * max_blocks_ + position / shape_.block_tokens];
        for (int32_t head = 0; head < shape_.kv_heads; ++head) {
          const size_t row =
              (static_cast<size_t>(head) * shape_.block_tokens + position % shape_.block_tokens) *
              shape_.head_dim;
          for (int32_t i = 0; i < shape_.head_dim; ++i) {
            for (const size_t plane : {2, 3}) {
              arena.Set((block * 4 + plane) * plane_ + row + i,
                        std::numeric_limits<float>::quiet_NaN());
            }
          }
        }
      }
    }
  }

 private:
  const AttentionShape shape_;
  const DType dtype_;
  int32_t num_tokens_ = 0;
  int32_t max_blocks_ = 0;
  size_t plane_ = 0;
  std::vector<SequenceSpan> spans_;
  std::vector<int32_t> tables_;
};

const std::vector<AttentionShape>& AttentionShapes() {
  static const std::vector<AttentionShape> shapes = {
      {1, 1, 32, 16, 0, {{0, 1}}},
      {2, 1, 64, 16, 0, {{0, 70}, {63, 1}, {64, 1}, {65, 1}, {128, 3}}},
      {2, 4, 96, 16, 0, {{5, 1}, {0, 33}, {200, 17}}},
      {1, 7, 128, 8, 0, {{100, 1}, {0, 40}}},
      {3, 2, 40, 5, 0, {{11, 2}, {0, 19}, {90, 1}}},
      {1, 40, 16, 16, 0, {{70, 1}, {3, 5}}},
      {1, 1, 256, 32, 0, {{31, 2}, {0, 66}}},
      {2, 4, 64, 16, 20, {{0, 90}, {150, 1}, {64, 40}, {5, 1}}},
      {1, 3, 30, 16, 1, {{0, 5}, {70, 2}}},
  };
  return shapes;
}

TEST_P(OpParityTest, RotaryWriteAndAttention) {
  for (const AttentionShape& shape : AttentionShapes()) {
    for (const bool with_norm : {false, true}) {
      SCOPED_TRACE(testing::Message()
                   << shape.kv_heads << " kv heads, group " << shape.group << ", dim "
                   << shape.head_dim << ", window " << shape.window << ", norm " << with_norm);
      const AttentionParity cache(shape, dtype(), random_);
      const int32_t q_heads = shape.kv_heads * shape.group;
      const size_t qkv_row = static_cast<size_t>(q_heads + 2 * shape.kv_heads) * shape.head_dim;
      const int32_t tokens = cache.num_tokens();
      std::vector<int32_t> slots;
      std::vector<int32_t> positions;
      for (const SequenceSpan& span : cache.spans()) {
        for (int32_t i = 0; i < span.query_len; ++i) {
          slots.push_back(span.slot);
          positions.push_back(span.context_len + i);
        }
      }
      Tensor inv_freq = Random(shape.head_dim / 2, 0.3F, DType::kF32);
      Tensor q_norm = Random(shape.head_dim, 1, DType::kF32);
      Tensor k_norm = Random(shape.head_dim, 1, DType::kF32);
      Tensor qkv[2] = {Random(tokens * qkv_row), Poison(0)};
      qkv[1] = qkv[0];
      Tensor arena[2] = {Random(cache.ArenaCount()), Poison(0)};
      cache.PoisonUnwritten(arena[0]);
      arena[1] = arena[0];
      const size_t out_row = static_cast<size_t>(q_heads) * shape.head_dim;
      Tensor out[2] = {Poison(tokens * out_row), Poison(tokens * out_row)};
      Tensor cos_sin[2] = {Poison(static_cast<size_t>(tokens) * shape.head_dim, DType::kF32),
                           Poison(static_cast<size_t>(tokens) * shape.head_dim, DType::kF32)};
      for (int which = 0; which < 2; ++which) {
        Backend& backend = which == 0 ? *fast_ : *ref_;
        RotaryTableArgs table;
        table.cos_sin = static_cast<float*>(cos_sin[which].data());
        table.positions = positions.data();
        table.inv_freq = static_cast<float*>(inv_freq.data());
        table.num_tokens = tokens;
        table.half_dim = shape.head_dim / 2;
        table.scale = 1.1F;
        ASSERT_TRUE(backend.RotaryTable(table).ok());
        RotaryKvWriteArgs write;
        write.qkv = qkv[which].data();
        write.cos_sin = table.cos_sin;
        write.q_norm_weight = with_norm ? static_cast<float*>(q_norm.data()) : nullptr;
        write.k_norm_weight = with_norm ? static_cast<float*>(k_norm.data()) : nullptr;
        write.token_slots = slots.data();
        write.kv_positions = positions.data();
        write.kv = cache.View(arena[which].data());
        write.num_tokens = tokens;
        write.num_q_heads = q_heads;
        write.norm_eps = 1e-6F;
        write.dtype = dtype();
        ASSERT_TRUE(backend.RotaryKvWrite(write).ok());
        PagedAttentionArgs attention;
        attention.out = out[which].data();
        attention.qkv = qkv[which].data();
        attention.sequences = cache.spans().data();
        attention.kv = write.kv;
        attention.num_sequences = static_cast<int32_t>(cache.spans().size());
        attention.num_tokens = tokens;
        attention.num_q_heads = q_heads;
        attention.window = shape.window;
        attention.scale = 0.3F;
        attention.dtype = dtype();
        ASSERT_TRUE(backend.PagedAttention(attention).ok());
      }
      ExpectSame(cos_sin[0], cos_sin[1], shape.head_dim, 1e-6);
      ExpectSame(qkv[0], qkv[1], qkv_row, tolerance());
      ExpectSame(arena[0], arena[1], arena[0].count(), tolerance());
      // Softmax weights spread what the rotation's rounding made of the scores.
      ExpectSame(out[0], out[1], out_row, 4 * tolerance());
    }
  }
}

TEST_P(OpParityTest, GatherAndCastAndCopyMoveBytes) {
  Tensor x = Random(6 * 20);
  const std::vector<int32_t> rows = {5, 0, 5};
  Tensor out = Poison(3 * 20);
  GatherRowsArgs gather;
  gather.out = out.data();
  gather.x = x.data();
  gather.indices = rows.data();
  gather.rows = 3;
  gather.dim = 20;
  gather.dtype = dtype();
  ASSERT_TRUE(fast_->GatherRows(gather).ok());
  for (size_t i = 0; i < 60; ++i) ASSERT_EQ(out.At(i), x.At(rows[i / 20] * 20 + i % 20));

  Tensor wide = Random(21, 1, DType::kF32);
  Tensor cast = Poison(21);
  ASSERT_TRUE(fast_->Cast({cast.data(), static_cast<float*>(wide.data()), 21, dtype()}).ok());
  for (size_t i = 0; i < 21; ++i) ASSERT_NEAR(cast.At(i), wide.At(i), 0.02);
  cast.ExpectGuardsWhole();

  const std::vector<int32_t> from = {0, 2};
  const std::vector<int32_t> to = {1, 3};
  const auto block_bytes = static_cast<int64_t>(20 * SizeOf(dtype()));
  ASSERT_TRUE(fast_->CopyBlocks({x.data(), from.data(), to.data(), block_bytes, 2}).ok());
  for (size_t i = 0; i < 20; ++i) {
    ASSERT_EQ(x.At(20 + i), x.At(i));
    ASSERT_EQ(x.At(60 + i), x.At(40 + i));
  }
}

std::string TargetName(const testing::TestParamInfo<Target>& info) {
  return std::string(Name(std::get<0>(info.param))) + "_" + fathom::Name(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(All, OpParityTest,
                         testing::Combine(testing::Values(Isa::kAvx2, Isa::kAvx512,
                                                          Isa::kAvx512Bf16),
                                          testing::Values(DType::kF32, DType::kBF16)),
                         TargetName);

}  // namespace
}  // namespace fathom::kernels::cpu
