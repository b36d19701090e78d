#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_ops.h"

namespace fathom::kernels::cuda {
namespace {

// A block a row. A row that fits the block's registers is read once; a longer one is read again.
constexpr int kPacksMax = 4;

template <typename T, int kCount>
__global__ void RmsNormKernel(RmsNormArgs args) {
  __shared__ float scratch[32];
  const int64_t begin = int64_t{blockIdx.x} * args.dim;
  const T* x = static_cast<const T*>(args.x) + begin;
  T* residual = args.residual == nullptr ? nullptr : static_cast<T*>(args.residual) + begin;
  T* out = static_cast<T*>(args.out) + begin;
  const int packs = args.dim / kCount;
  const int stride = static_cast<int>(blockDim.x);
  LetSuccessorStart();
  WaitForPredecessor();

  Pack<T, kCount> kept[kPacksMax];
  float sum = 0;
  const auto take = [&](int p) {
    Pack<T, kCount> pack = LoadPack<T, kCount>(x + p * kCount);
    if (residual != nullptr) {
      const Pack<T, kCount> old = LoadPack<T, kCount>(residual + p * kCount);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        pack.v[i] = FromFloat<T>(ToFloat(old.v[i]) + ToFloat(pack.v[i]));
      }
      StorePack(residual + p * kCount, pack);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum += ToFloat(pack.v[i]) * ToFloat(pack.v[i]);
    return pack;
  };
#pragma unroll
  for (int k = 0; k < kPacksMax; ++k) {
    const int p = static_cast<int>(threadIdx.x) + k * stride;
    if (p < packs) kept[k] = take(p);
  }
  for (int p = static_cast<int>(threadIdx.x) + kPacksMax * stride; p < packs; p += stride) take(p);

  const float mean = BlockSum(sum, scratch) / static_cast<float>(args.dim);
  const float inverse = 1.0F / sqrtf(mean + args.eps);
  const auto give = [&](int p, Pack<T, kCount> pack) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float weight = args.weight[p * kCount + i];
      pack.v[i] = FromFloat<T>(weight * Rounded<T>(ToFloat(pack.v[i]) * inverse));
    }
    StorePack(out + p * kCount, pack);
  };
#pragma unroll
  for (int k = 0; k < kPacksMax; ++k) {
    const int p = static_cast<int>(threadIdx.x) + k * stride;
    if (p < packs) give(p, kept[k]);
  }
  const T* rest = residual != nullptr ? residual : x;
  for (int p = static_cast<int>(threadIdx.x) + kPacksMax * stride; p < packs; p += stride) {
    give(p, LoadPack<T, kCount>(rest + p * kCount));
  }
}

template <typename T, int kCount>
cudaError_t Launch(const RmsNormArgs& args, cudaStream_t stream) {
  const int packs = args.dim / kCount;
  const int threads = packs >= 1024 ? 1024 : (packs + 31) / 32 * 32;
  return LaunchChained(RmsNormKernel<T, kCount>, static_cast<unsigned>(args.rows),
                       static_cast<unsigned>(threads), 0, stream, args);
}

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  const bool aligned = IsAligned(args.out) && IsAligned(args.x) && IsAligned(args.residual);
  return WithType(args.dtype, [&](auto t) {
    using T = decltype(t);
    return aligned && args.dim % kPack16<T> == 0 ? Launch<T, kPack16<T>>(args, stream)
                                                 : Launch<T, 1>(args, stream);
  });
}

}  // namespace fathom::kernels::cuda
