#include "kernels/check_args.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace fathom::kernels {
namespace {

absl::Status Bad(const char* op, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat(op, ": ", what));
}

bool IsFloat(DType t) { return t == DType::kF32 || t == DType::kBF16 || t == DType::kF16; }

#define REQUIRE_ARG(op, condition) \
  if (!(condition)) return Bad(op, "needs " #condition)

absl::Status CheckCache(const char* op, const KvCacheView& kv, DType dtype) {
  REQUIRE_ARG(op, kv.arena != nullptr);
  REQUIRE_ARG(op, kv.block_tables != nullptr);
  REQUIRE_ARG(op, kv.max_blocks > 0);
  REQUIRE_ARG(op, kv.block_tokens > 0);
  REQUIRE_ARG(op, kv.num_kv_heads > 0);
  REQUIRE_ARG(op, kv.head_dim > 0 && kv.head_dim <= kMaxHeadDim && kv.head_dim % 2 == 0);
  const int64_t plane_bytes = static_cast<int64_t>(kv.num_kv_heads) * kv.block_tokens *
                              kv.head_dim * static_cast<int64_t>(SizeOf(dtype));
  REQUIRE_ARG(op, kv.layer_offset >= 0 && kv.value_offset >= 0);
  REQUIRE_ARG(op, kv.layer_offset + plane_bytes <= kv.block_bytes);
  REQUIRE_ARG(op, kv.value_offset + plane_bytes <= kv.block_bytes);
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckArgs(const EmbeddingArgs& args) {
  constexpr auto kOp = "Embedding";
  REQUIRE_ARG(kOp, args.num_tokens >= 0);
  REQUIRE_ARG(kOp, args.vocab > 0 && args.hidden > 0 && args.hidden <= kMaxRowDim);
  REQUIRE_ARG(kOp, IsFloat(args.dtype) && IsFloat(args.table_dtype));
  REQUIRE_ARG(kOp, args.out != nullptr && args.table != nullptr);
  REQUIRE_ARG(kOp, args.token_ids != nullptr && args.token_slots != nullptr);
  REQUIRE_ARG(kOp, args.slot_tokens != nullptr);
  return absl::OkStatus();
}

absl::Status CheckArgs(const RmsNormArgs& args) {
  constexpr auto kOp = "RmsNorm";
  REQUIRE_ARG(kOp, args.rows >= 0 && args.dim > 0 && args.dim <= kMaxRowDim);
  REQUIRE_ARG(kOp, IsFloat(args.dtype));
  REQUIRE_ARG(kOp, args.out != nullptr && args.x != nullptr && args.weight != nullptr);
  REQUIRE_ARG(kOp, args.eps >= 0);
  return absl::OkStatus();
}

absl::Status CheckArgs(const RotaryTableArgs& args) {
  constexpr auto kOp = "RotaryTable";
  REQUIRE_ARG(kOp, args.num_tokens >= 0 && args.half_dim > 0);
  REQUIRE_ARG(kOp, args.cos_sin != nullptr && args.positions != nullptr);
  REQUIRE_ARG(kOp, args.inv_freq != nullptr);
  return absl::OkStatus();
}

absl::Status CheckArgs(const RotaryKvWriteArgs& args) {
  constexpr auto kOp = "RotaryKvWrite";
  REQUIRE_ARG(kOp, args.num_tokens >= 0 && args.num_q_heads > 0);
  REQUIRE_ARG(kOp, IsFloat(args.dtype));
  REQUIRE_ARG(kOp, args.qkv != nullptr && args.cos_sin != nullptr);
  REQUIRE_ARG(kOp, args.token_slots != nullptr && args.kv_positions != nullptr);
  return CheckCache(kOp, args.kv, args.dtype);
}

absl::Status CheckArgs(const PagedAttentionArgs& args) {
  constexpr auto kOp = "PagedAttention";
  REQUIRE_ARG(kOp, args.num_sequences >= 0 && args.num_tokens >= 0 && args.window >= 0);
  REQUIRE_ARG(kOp, IsFloat(args.dtype));
  REQUIRE_ARG(kOp, args.out != nullptr && args.qkv != nullptr && args.sequences != nullptr);
  if (absl::Status cache = CheckCache(kOp, args.kv, args.dtype); !cache.ok()) return cache;
  REQUIRE_ARG(kOp, args.num_q_heads > 0 && args.num_q_heads % args.kv.num_kv_heads == 0);
  REQUIRE_ARG(kOp, args.rotary.cos_sin == nullptr || args.max_query_len == 1);
  return absl::OkStatus();
}

absl::Status CheckArgs(const SiluMulArgs& args) {
  constexpr auto kOp = "SiluMul";
  REQUIRE_ARG(kOp, args.rows >= 0 && args.dim > 0 && args.dim <= kMaxRowDim);
  REQUIRE_ARG(kOp, IsFloat(args.dtype));
  REQUIRE_ARG(kOp, args.out != nullptr && args.gate_up != nullptr);
  return absl::OkStatus();
}

absl::Status CheckArgs(const GatherRowsArgs& args) {
  constexpr auto kOp = "GatherRows";
  REQUIRE_ARG(kOp, args.rows >= 0 && args.dim > 0);
  REQUIRE_ARG(kOp, IsFloat(args.dtype));
  REQUIRE_ARG(kOp, args.out != nullptr && args.x != nullptr && args.indices != nullptr);
  REQUIRE_ARG(kOp, args.out != args.x);
  return absl::OkStatus();
}

absl::Status CheckArgs(const CastArgs& args) {
  constexpr auto kOp = "Cast";
  REQUIRE_ARG(kOp, args.count >= 0);
  REQUIRE_ARG(kOp, IsFloat(args.dtype));
  REQUIRE_ARG(kOp, args.out != nullptr && args.x != nullptr);
  return absl::OkStatus();
}

absl::Status CheckArgs(const CopyBlocksArgs& args) {
  constexpr auto kOp = "CopyBlocks";
  REQUIRE_ARG(kOp, args.count >= 0 && args.block_bytes > 0);
  REQUIRE_ARG(kOp, args.arena != nullptr);
  REQUIRE_ARG(kOp, args.sources != nullptr && args.destinations != nullptr);
  return absl::OkStatus();
}

absl::Status CheckArgs(const ScatterArgs& args) {
  constexpr auto kOp = "Scatter";
  REQUIRE_ARG(kOp, args.count >= 0);
  REQUIRE_ARG(kOp, args.out != nullptr && args.indices != nullptr && args.values != nullptr);
  return absl::OkStatus();
}

absl::Status CheckArgs(const LinearArgs& args) {
  constexpr auto kOp = "Linear";
  REQUIRE_ARG(kOp, args.rows >= 0);
  REQUIRE_ARG(kOp, IsFloat(args.dtype) && IsFloat(args.out_dtype));
  REQUIRE_ARG(kOp, args.out != nullptr && args.x != nullptr && args.out != args.x);
  const LinearFusion& fusion = args.fusion;
  REQUIRE_ARG(kOp, fusion.square_sums == nullptr ||
                       (fusion.square_parts > 0 && fusion.square_parts <= fusion.square_pitch));
  REQUIRE_ARG(kOp, fusion.norm_eps >= 0);
  REQUIRE_ARG(kOp, fusion.residual == nullptr ||
                       (fusion.norm_weight != nullptr && fusion.residual_squares != nullptr &&
                        fusion.square_pitch > 0 && !fusion.gated));
  return absl::OkStatus();
}

absl::Status CheckMatrixParts(std::span<const TensorView> parts, DType dtype) {
  constexpr auto kOp = "PackMatrix";
  REQUIRE_ARG(kOp, !parts.empty());
  REQUIRE_ARG(kOp, IsFloat(dtype));
  int64_t rows = 0;
  for (const TensorView& part : parts) {
    REQUIRE_ARG(kOp, part.data != nullptr && part.rank == 2);
    REQUIRE_ARG(kOp, part.shape[1] == parts[0].shape[1]);
    REQUIRE_ARG(kOp, part.shape[0] > 0 && part.shape[1] > 0 && part.shape[1] <= kMaxRowDim);
    REQUIRE_ARG(kOp, IsFloat(part.dtype));
    rows += part.shape[0];
  }
  REQUIRE_ARG(kOp, rows <= std::numeric_limits<int32_t>::max() / 2);
  return absl::OkStatus();
}

#undef REQUIRE_ARG

}  // namespace fathom::kernels
