// Any shape and any mix of types: tiles in shared memory, products and sums in FP32. Correct first;
// what must be fast goes elsewhere.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/linear.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int kTileTokens = 32;
constexpr int kTileColumns = 64;  // rows of W
constexpr int kTileDepth = 32;
constexpr int kThreads = 256;
constexpr int kThreadTokens = 2;
constexpr int kThreadColumns = 4;
static_assert(kTileTokens * kTileColumns == kThreads * kThreadTokens * kThreadColumns);
// Blocks in y are limited to 65535, tokens are not.
constexpr int kMaxBlocksY = 65535;

__device__ float Widen(float v) { return v; }
__device__ float Widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ float Widen(__half v) { return __half2float(v); }

__device__ void Store(void* out, int64_t at, float v, DType dtype) {
  switch (dtype) {
    case DType::kF32:
      static_cast<float*>(out)[at] = v;
      break;
    case DType::kF16:
      static_cast<__half*>(out)[at] = __float2half_rn(v);
      break;
    default:
      static_cast<__nv_bfloat16*>(out)[at] = __float2bfloat16_rn(v);
      break;
  }
}

template <typename X, typename W>
__global__ void __launch_bounds__(kThreads)
    PlainKernel(LinearArgs args, const W* weight, int32_t n, int32_t k) {
  // One more float a row keeps the transposing stores off one bank.
  __shared__ float x_tile[kTileDepth][kTileTokens + 1];
  __shared__ float w_tile[kTileDepth][kTileColumns + 1];
  const auto* x = static_cast<const X*>(args.x);
  const int32_t column0 = blockIdx.x * kTileColumns;
  const int32_t thread_column = threadIdx.x % (kTileColumns / kThreadColumns);
  const int32_t thread_token = threadIdx.x / (kTileColumns / kThreadColumns);

  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * kTileTokens; token0 < args.rows;
       token0 += static_cast<int64_t>(gridDim.y) * kTileTokens) {
    float sums[kThreadTokens][kThreadColumns] = {};
    for (int32_t depth0 = 0; depth0 < k; depth0 += kTileDepth) {
      for (int32_t i = threadIdx.x; i < kTileTokens * kTileDepth; i += kThreads) {
        const int64_t token = token0 + i / kTileDepth;
        const int32_t depth = depth0 + i % kTileDepth;
        x_tile[i % kTileDepth][i / kTileDepth] =
            token < args.rows && depth < k ? Widen(x[token * k + depth]) : 0.0F;
      }
      for (int32_t i = threadIdx.x; i < kTileColumns * kTileDepth; i += kThreads) {
        const int32_t column = column0 + i / kTileDepth;
        const int32_t depth = depth0 + i % kTileDepth;
        w_tile[i % kTileDepth][i / kTileDepth] =
            column < n && depth < k ? Widen(weight[static_cast<int64_t>(column) * k + depth])
                                    : 0.0F;
      }
      __syncthreads();
      // Sums of sums: the error of a long FP32 sum grows with its length.
      float parts[kThreadTokens][kThreadColumns] = {};
#pragma unroll 8
      for (int d = 0; d < kTileDepth; ++d) {
#pragma unroll
        for (int i = 0; i < kThreadTokens; ++i) {
#pragma unroll
          for (int j = 0; j < kThreadColumns; ++j) {
            parts[i][j] += x_tile[d][thread_token * kThreadTokens + i] *
                           w_tile[d][thread_column + j * (kTileColumns / kThreadColumns)];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kThreadTokens; ++i) {
#pragma unroll
        for (int j = 0; j < kThreadColumns; ++j) sums[i][j] += parts[i][j];
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kThreadTokens; ++i) {
      const int64_t token = token0 + thread_token * kThreadTokens + i;
      if (token >= args.rows) break;
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) {
        const int32_t column = column0 + thread_column + j * (kTileColumns / kThreadColumns);
        if (column >= n) break;
        const float bias = args.bias != nullptr ? args.bias[column] : 0.0F;
        Store(args.out, token * n + column, sums[i][j] + bias, args.out_dtype);
      }
    }
  }
}

template <typename X, typename W>
cudaError_t Launch(const LinearArgs& args, const WeightView& weight, cudaStream_t stream) {
  const int64_t token_blocks = (static_cast<int64_t>(args.rows) + kTileTokens - 1) / kTileTokens;
  const dim3 grid((weight.rows + kTileColumns - 1) / kTileColumns,
                  static_cast<unsigned>(token_blocks < kMaxBlocksY ? token_blocks : kMaxBlocksY));
  PlainKernel<X, W><<<grid, kThreads, 0, stream>>>(args, static_cast<const W*>(weight.data),
                                                   weight.rows, weight.cols);
  return cudaGetLastError();
}

template <typename X>
cudaError_t LaunchForWeight(const LinearArgs& args, const WeightView& weight, cudaStream_t stream) {
  switch (weight.dtype) {
    case DType::kF32:
      return Launch<X, float>(args, weight, stream);
    case DType::kBF16:
      return Launch<X, __nv_bfloat16>(args, weight, stream);
    case DType::kF16:
      return Launch<X, __half>(args, weight, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t LaunchPlainLinear(const LinearArgs& args, const WeightView& weight,
                              cudaStream_t stream) {
  if (args.rows < 1 || weight.rows < 1 || weight.cols < 1) return cudaErrorInvalidValue;
  if (args.out_dtype != DType::kF32 && args.out_dtype != DType::kBF16 &&
      args.out_dtype != DType::kF16) {
    return cudaErrorInvalidValue;
  }
  switch (args.dtype) {
    case DType::kF32:
      return LaunchForWeight<float>(args, weight, stream);
    case DType::kBF16:
      return LaunchForWeight<__nv_bfloat16>(args, weight, stream);
    case DType::kF16:
      return LaunchForWeight<__half>(args, weight, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fathom::kernels::cuda
