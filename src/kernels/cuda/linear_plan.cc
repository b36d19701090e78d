#include "kernels/cuda/linear.h"

namespace fathom::kernels::cuda {
namespace {

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

// Between an H100's 3.35 TB/s and an H200's 4.9, as their clocks and bus widths say.
constexpr double kFastMemory = 4e12;

}  // namespace

// Measured (fathom-gpu-linear-bench, fathom-gpu-engine-bench): x, which every tile reads again,
// comes out of L2, whose rate does not grow with the memory's. At 32 rows an H100 gains 2 % of a
// step over the library; an H200's step takes 2 % less by the wide kernel at 8 rows, 9 at 16.
int32_t SkinnyRowsMax(double bytes_per_second) { return bytes_per_second > kFastMemory ? 0 : 32; }

static_assert(kWideRowsMax == kSkinnyRowsMax);

// What the skinny kernel leaves, the wide one takes up to kWideRowsMax. Measured on an H200 at its
// power limit: 7 to 10 % faster than the library up to 64 rows; of tiles for 128 rows it was 9 %
// slower at 96 and level at 128.
LinearKernel ChooseLinear(const LinearArgs& args, const WeightView& weight,
                          int32_t skinny_rows_max) {
  const bool same = args.dtype == weight.dtype && IsFloat(args.dtype);
  const bool is_16_bit = args.dtype == DType::kBF16 || args.dtype == DType::kF16;
  if (same && is_16_bit && weight.cols % 8 == 0 && args.rows <= kSkinnyRowsMax) {
    if (args.rows <= skinny_rows_max || weight.rows % 8 != 0) return LinearKernel::kSkinny;
    return LinearKernel::kWide;
  }
  // Rows that begin off 16 bytes leave the library only its slow algorithms, or none.
  const auto per_16_bytes = static_cast<int32_t>(16 / SizeOf(args.dtype));
  const bool aligned = weight.cols % per_16_bytes == 0 && weight.rows % per_16_bytes == 0;
  const bool library_output = args.out_dtype == DType::kF32 || args.out_dtype == args.dtype;
  if (same && aligned && library_output) return LinearKernel::kLibrary;
  return LinearKernel::kPlain;
}

std::optional<LinearKernel> FusedLinear(int32_t rows, int32_t n, int32_t k,
                                        int32_t skinny_rows_max) {
  if (k % 8 != 0) return std::nullopt;
  if (rows > skinny_rows_max && rows <= kWideRowsMax && n % 16 == 0) return LinearKernel::kWide;
  if (rows <= kSkinnyFusedRowsMax) return LinearKernel::kSkinny;
  return std::nullopt;
}

}  // namespace fathom::kernels::cuda
