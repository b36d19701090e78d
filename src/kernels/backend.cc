#include "kernels/backend.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/check_args.h"

namespace fathom::kernels {

absl::Status Backend::CheckStored(DType dtype) const {
  if (Stores(dtype)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the ", name(), " backend stores nothing as ", Name(dtype)));
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> Backend::PackMatrix(std::span<const TensorView> parts,
                                                                  DType dtype) {
  RETURN_IF_ERROR(CheckMatrixParts(parts, dtype));
  RETURN_IF_ERROR(CheckStored(dtype));
  int64_t rows = 0;
  for (const TensorView& part : parts) rows += part.shape[0];
  return DoPackMatrix(parts, static_cast<int32_t>(rows), static_cast<int32_t>(parts[0].shape[1]),
                      dtype);
}

absl::Status Backend::Embedding(const EmbeddingArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  RETURN_IF_ERROR(CheckStored(args.dtype));
  return DoEmbedding(args);
}

absl::Status Backend::RmsNorm(const RmsNormArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  RETURN_IF_ERROR(CheckStored(args.dtype));
  return DoRmsNorm(args);
}

absl::Status Backend::RotaryTable(const RotaryTableArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  return DoRotaryTable(args);
}

absl::Status Backend::RotaryKvWrite(const RotaryKvWriteArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  RETURN_IF_ERROR(CheckStored(args.dtype));
  return DoRotaryKvWrite(args);
}

absl::Status Backend::PagedAttention(const PagedAttentionArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  RETURN_IF_ERROR(CheckStored(args.dtype));
  if (args.rotary.cos_sin != nullptr && !FusesRotary(args)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "PagedAttention: the ", name(), " backend does not fuse this with its rotary embedding"));
  }
  return DoPagedAttention(args);
}

absl::Status Backend::SiluMul(const SiluMulArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  RETURN_IF_ERROR(CheckStored(args.dtype));
  return DoSiluMul(args);
}

absl::Status Backend::GatherRows(const GatherRowsArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  RETURN_IF_ERROR(CheckStored(args.dtype));
  return DoGatherRows(args);
}

absl::Status Backend::Cast(const CastArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  RETURN_IF_ERROR(CheckStored(args.dtype));
  return DoCast(args);
}

absl::Status Backend::Scatter(const ScatterArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  return DoScatter(args);
}

absl::Status Backend::CopyBlocks(const CopyBlocksArgs& args) {
  RETURN_IF_ERROR(CheckArgs(args));
  return DoCopyBlocks(args);
}

absl::Status Backend::Linear(const LinearArgs& args, const PackedMatrix& weight) {
  RETURN_IF_ERROR(CheckArgs(args));
  RETURN_IF_ERROR(CheckStored(args.dtype));
  if (!args.fusion.empty() && !FusesLinear(args.rows, args.dtype, weight)) {
    return absl::InvalidArgumentError("Linear: nothing is fused with such a product here");
  }
  return DoLinear(args, weight);
}

}  // namespace fathom::kernels
