#include "kernels/cuda/linear.h"

namespace fathom::kernels::cuda {
namespace {

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

}  // namespace

static_assert(kWideRowsMax == kSkinnyRowsMax);

// The wide kernel takes all it can. Measured on an H200 at its power limit: 7 to 10 % faster than
// the library up to 64 rows; of tiles for 128 rows it was 9 % slower at 96 and level at 128. The
// skinny one is slower on an H100 too: a fused chain by 0.6 % at 1 and 8 rows, 6 % at 16.
LinearKernel ChooseLinear(const LinearArgs& args, const WeightView& weight) {
  const bool same = args.dtype == weight.dtype && IsFloat(args.dtype);
  const bool is_16_bit = args.dtype == DType::kBF16 || args.dtype == DType::kF16;
  if (same && is_16_bit && weight.cols % 8 == 0 && args.rows <= kSkinnyRowsMax) {
    return weight.rows % 8 == 0 ? LinearKernel::kWide : LinearKernel::kSkinny;
  }
  // Rows that begin off 16 bytes leave the library only its slow algorithms, or none.
  const auto per_16_bytes = static_cast<int32_t>(16 / SizeOf(args.dtype));
  const bool aligned = weight.cols % per_16_bytes == 0 && weight.rows % per_16_bytes == 0;
  const bool library_output = args.out_dtype == DType::kF32 || args.out_dtype == args.dtype;
  if (same && aligned && library_output) return LinearKernel::kLibrary;
  return LinearKernel::kPlain;
}

std::optional<LinearKernel> FusedLinear(int32_t rows, int32_t n, int32_t k) {
  if (k % 8 != 0) return std::nullopt;
  if (rows <= kWideRowsMax && n % 16 == 0) return LinearKernel::kWide;
  if (rows <= kSkinnyFusedRowsMax) return LinearKernel::kSkinny;
  return std::nullopt;
}

}  // namespace fathom::kernels::cuda
