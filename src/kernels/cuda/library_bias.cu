#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/library_linear.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ void Convert(float v, float* out) { *out = v; }
__device__ void Convert(float v, __nv_bfloat16* out) { *out = __float2bfloat16_rn(v); }
__device__ void Convert(float v, __half* out) { *out = __float2half_rn(v); }

template <typename T>
__global__ void __launch_bounds__(kThreads)
    BroadcastKernel(T* out, const float* bias, int32_t rows, int32_t n) {
  const int32_t column = blockIdx.x * kThreads + threadIdx.x;
  if (column >= n) return;
  T value;
  Convert(bias[column], &value);
  for (int32_t row = blockIdx.y; row < rows; row += gridDim.y) {
    out[static_cast<int64_t>(row) * n + column] = value;
  }
}

template <typename T>
cudaError_t Launch(const LinearArgs& args, int32_t n, cudaStream_t stream) {
  const dim3 grid((n + kThreads - 1) / kThreads, std::min(args.rows, 256));
  BroadcastKernel<T>
      <<<grid, kThreads, 0, stream>>>(static_cast<T*>(args.out), args.bias, args.rows, n);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchBroadcastBias(const LinearArgs& args, int32_t n, cudaStream_t stream) {
  switch (args.out_dtype) {
    case DType::kF32:
      return Launch<float>(args, n, stream);
    case DType::kBF16:
      return Launch<__nv_bfloat16>(args, n, stream);
    case DType::kF16:
      return Launch<__half>(args, n, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fathom::kernels::cuda
