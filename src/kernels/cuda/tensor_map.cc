#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>

namespace fathom::kernels::cuda {
namespace {

// Asked of the runtime, so that nothing links against the driver, which build machines lack.
PFN_cuTensorMapEncodeTiled_v12000 Encoder() {
  static const auto encoder = []() -> PFN_cuTensorMapEncodeTiled_v12000 {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess) {
      return nullptr;
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

struct Rows {
  int32_t count;
  int32_t groups;
};

cudaError_t Encode(uint32_t rank, const void* data, const Rows& rows, int32_t cols, DType dtype,
                   const Rows& box_rows, CUtensorMap* out) {
  const PFN_cuTensorMapEncodeTiled_v12000 encode = Encoder();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows.count),
                               static_cast<cuuint64_t>(rows.groups)};
  const cuuint64_t strides[2] = {sizes[0] * SizeOf(dtype), sizes[0] * sizes[1] * SizeOf(dtype)};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_rows.count),
                             static_cast<cuuint32_t>(box_rows.groups)};
  const cuuint32_t element_strides[3] = {1, 1, 1};
  const CUtensorMapDataType type =
      dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const CUresult result =
      encode(out, type, rank, const_cast<void*>(data), sizes, strides, box, element_strides,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t EncodeTensorMap(const void* data, int32_t rows, int32_t cols, DType dtype,
                            int32_t box_rows, CUtensorMap* out) {
  return Encode(2, data, {rows, 1}, cols, dtype, {box_rows, 1}, out);
}

cudaError_t EncodeHalvesTensorMap(const void* data, int32_t rows, int32_t cols, DType dtype,
                                  int32_t box_rows, CUtensorMap* out) {
  return Encode(3, data, {rows / 2, 2}, cols, dtype, {box_rows / 2, 2}, out);
}

}  // namespace fathom::kernels::cuda
