// Rotary embedding, the write to the paged cache and attention over it, fast against reference.

#include <numeric>

#include "kernels/cpu/op_parity_testing.h"

namespace fathom::kernels::cpu {
namespace {

using AttentionParityTest = OpParityTest;

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

  // All sequences in one launch.
  PagedAttentionArgs Args(Tensor& arena, Tensor& qkv, Tensor& out) const {
    PagedAttentionArgs args;
    args.out = out.data();
    args.qkv = qkv.data();
    args.sequences = spans_.data();
    args.kv = View(arena.data());
    args.num_sequences = static_cast<int32_t>(spans_.size());
    args.num_tokens = num_tokens_;
    args.num_q_heads = shape_.kv_heads * shape_.group;
    args.window = shape_.window;
    args.scale = 0.3F;
    args.dtype = dtype_;
    return args;
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
      {1, 2, 192, 16, 100, {{0, 150}, {161, 1}, {95, 7}}},
  };
  return shapes;
}

TEST_P(AttentionParityTest, RotaryWriteAndAttention) {
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
        ASSERT_TRUE(backend.PagedAttention(cache.Args(arena[which], qkv[which], out[which])).ok());
      }
      ExpectSame(cos_sin[0], cos_sin[1], shape.head_dim, 1e-6);
      ExpectSame(qkv[0], qkv[1], qkv_row, tolerance());
      ExpectSame(arena[0], arena[1], arena[0].count(), tolerance());
      // Softmax weights spread what the rotation's rounding made of the scores.
      ExpectSame(out[0], out[1], out_row, 4 * tolerance());
    }
  }
}

// A row's result depends on its own position alone: a whole prompt, chunks of it and single tokens
// agree bit for bit.
TEST_P(AttentionParityTest, ChunksAgreeBitForBit) {
  for (const int32_t window : {0, 70}) {
    const AttentionShape shape = {2, 3, 80, 16, window, {{0, 200}}};
    const AttentionParity cache(shape, dtype(), random_);
    const int32_t tokens = cache.num_tokens();
    const size_t head_bytes = shape.head_dim * SizeOf(dtype());
    const size_t qkv_row = 10 * head_bytes;
    const size_t out_row = 6 * head_bytes;
    Tensor arena = Random(cache.ArenaCount());
    Tensor qkv = Random(static_cast<size_t>(tokens) * 10 * shape.head_dim);
    Tensor whole = Poison(static_cast<size_t>(tokens) * 6 * shape.head_dim);
    PagedAttentionArgs args = cache.Args(arena, qkv, whole);
    ASSERT_TRUE(fast_->PagedAttention(args).ok());
    for (int32_t first = 0; first < tokens;) {
      const int32_t most = random_() % 2 == 0 ? 1 : 40;
      SequenceSpan span = cache.spans()[0];
      span.context_len = first;
      span.query_len = std::min<int32_t>(1 + random_() % most, tokens - first);
      Tensor some = Poison(static_cast<size_t>(span.query_len) * 6 * shape.head_dim);
      args.out = some.data();
      args.qkv = static_cast<char*>(qkv.data()) + first * qkv_row;
      args.sequences = &span;
      args.num_tokens = span.query_len;
      ASSERT_TRUE(fast_->PagedAttention(args).ok());
      ASSERT_EQ(std::memcmp(some.data(), static_cast<char*>(whole.data()) + first * out_row,
                            span.query_len * out_row),
                0)
          << "tokens " << first << " to " << first + span.query_len << ", window " << window;
      first += span.query_len;
    }
  }
}

// CPU backends rotate in an operation of its own.
TEST_P(AttentionParityTest, RefusesFusedRotation) {
  const AttentionShape shape = {1, 1, 32, 16, 0, {{0, 1}}};
  const AttentionParity cache(shape, dtype(), random_);
  Tensor arena = Random(cache.ArenaCount());
  Tensor qkv = Random(3 * shape.head_dim);
  Tensor out = Poison(shape.head_dim);
  Tensor cos_sin = Random(shape.head_dim, 1, DType::kF32);
  PagedAttentionArgs args = cache.Args(arena, qkv, out);
  args.max_query_len = 1;
  args.rotary.cos_sin = static_cast<float*>(cos_sin.data());
  for (Backend* backend : {fast_.get(), ref_.get()}) {
    EXPECT_FALSE(backend->FusesRotary(args));
    EXPECT_EQ(backend->PagedAttention(args).code(), absl::StatusCode::kInvalidArgument);
  }
  args.rotary.cos_sin = nullptr;
  EXPECT_TRUE(ref_->PagedAttention(args).ok());
}

INSTANTIATE_TEST_SUITE_P(All, AttentionParityTest, AllTargets(), TargetName);

}  // namespace
}  // namespace fathom::kernels::cpu
