#pragma once

// What every backend may rely on: pointers that are there, sizes that make sense, types that are
// implemented. InvalidArgument names the operation and the field. Zero rows are fine everywhere.

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/op_args.h"
#include "kernels/tensor_view.h"

namespace fathom::kernels {

// The largest head a backend must take, and the largest width of a row it normalises or multiplies.
inline constexpr int32_t kMaxHeadDim = 256;
inline constexpr int32_t kMaxRowDim = 1 << 20;

absl::Status CheckArgs(const EmbeddingArgs& args);
absl::Status CheckArgs(const RmsNormArgs& args);
absl::Status CheckArgs(const RotaryTableArgs& args);
absl::Status CheckArgs(const RotaryKvWriteArgs& args);
absl::Status CheckArgs(const PagedAttentionArgs& args);
absl::Status CheckArgs(const SiluMulArgs& args);
absl::Status CheckArgs(const GatherRowsArgs& args);
absl::Status CheckArgs(const CastArgs& args);
absl::Status CheckArgs(const CopyBlocksArgs& args);
absl::Status CheckArgs(const ScatterArgs& args);
absl::Status CheckArgs(const LinearArgs& args);
absl::Status CheckMatrixParts(std::span<const TensorView> parts, DType dtype);

}  // namespace fathom::kernels
