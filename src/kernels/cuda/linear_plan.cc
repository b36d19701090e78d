#include "kernels/cuda/linear.h"

namespace fathom::kernels::cuda {
namespace {

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

// Measured on an H100 (fathom-gpu-linear-bench, fathom-gpu-engine-bench): beyond, x that every tile
// reads again outweighs what the library loses in its tails and between kernels.
constexpr int32_t kRowsMax = 32;

}  // namespace

LinearKernel ChooseLinear(const LinearArgs& args, const WeightView& weight) {
  const bool same = args.dtype == weight.dtype && IsFloat(args.dtype);
  const bool is_16_bit = args.dtype == DType::kBF16 || args.dtype == DType::kF16;
  if (same && is_16_bit && weight.cols % 8 == 0 && args.rows <= kRowsMax) {
    return LinearKernel::kSkinny;
  }
  // Rows that begin off 16 bytes leave the library only its slow algorithms, or none.
  const auto per_16_bytes = static_cast<int32_t>(16 / SizeOf(args.dtype));
  const bool aligned = weight.cols % per_16_bytes == 0 && weight.rows % per_16_bytes == 0;
  const bool library_output = args.out_dtype == DType::kF32 || args.out_dtype == args.dtype;
  if (same && aligned && library_output) return LinearKernel::kLibrary;
  return LinearKernel::kPlain;
}

}  // namespace fathom::kernels::cuda
