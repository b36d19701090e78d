#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include <initializer_list>

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

// A dimension beside the columns: its length, the rows it steps over and its length in a box.
struct Dimension {
  int32_t size;
  int32_t step;
  int32_t box;
};

cudaError_t Encode(const void* data, int32_t cols, DType dtype,
                   std::initializer_list<Dimension> dimensions, CUtensorMap* out) {
  const PFN_cuTensorMapEncodeTiled_v12000 encode = Encoder();
  if (encode == nullptr) return cudaErrorNotSupported;
  cuuint64_t sizes[4] = {static_cast<cuuint64_t>(cols)};
  cuuint64_t strides[3] = {};
  cuuint32_t box[4] = {64};
  cuuint32_t rank = 1;
  for (const Dimension& dimension : dimensions) {
    sizes[rank] = static_cast<cuuint64_t>(dimension.size);
    strides[rank - 1] = static_cast<cuuint64_t>(dimension.step) * cols * SizeOf(dtype);
    box[rank++] = static_cast<cuuint32_t>(dimension.box);
  }
  const cuuint32_t element_strides[4] = {1, 1, 1, 1};
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
  return Encode(data, cols, dtype, {{rows, 1, box_rows}}, out);
}

cudaError_t EncodeHalvesTensorMap(const void* data, int32_t rows, int32_t cols, DType dtype,
                                  int32_t box_rows, CUtensorMap* out) {
  return Encode(data, cols, dtype, {{rows / 2, 1, box_rows / 2}, {2, rows / 2, 2}}, out);
}

cudaError_t EncodePairsTensorMap(const void* data, int32_t rows, int32_t cols, DType dtype,
                                 int32_t box_rows, CUtensorMap* out) {
  return Encode(data, cols, dtype, {{8, 1, 8}, {2, rows / 2, 2}, {rows / 16, 8, box_rows / 16}},
                out);
}

}  // namespace fathom::kernels::cuda
