#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_ops.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, int kCount>
__global__ void SiluMulKernel(SiluMulArgs args) {
  const int packs = args.dim / kCount;
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  LetSuccessorStart();
  WaitForPredecessor();
  if (at >= int64_t{args.rows} * packs) return;
  const int64_t row = at / packs;
  const int64_t begin = at % packs * kCount;
  const T* gate = static_cast<const T*>(args.gate_up) + row * 2 * args.dim + begin;
  Pack<T, kCount> x = LoadPack<T, kCount>(gate);
  const Pack<T, kCount> up = LoadPack<T, kCount>(gate + args.dim);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float g = ToFloat(x.v[i]);
    x.v[i] = FromFloat<T>(Rounded<T>(g / (1.0F + expf(-g))) * ToFloat(up.v[i]));
  }
  StorePack(static_cast<T*>(args.out) + row * args.dim + begin, x);
}

template <typename T, int kCount>
cudaError_t Launch(const SiluMulArgs& args, cudaStream_t stream) {
  const unsigned blocks = CeilDiv(int64_t{args.rows} * (args.dim / kCount), kThreads);
  return LaunchChained(SiluMulKernel<T, kCount>, blocks, kThreads, 0, stream, args);
}

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t LaunchSiluMul(const SiluMulArgs& args, cudaStream_t stream) {
  const bool aligned = IsAligned(args.out) && IsAligned(args.gate_up);
  return WithType(args.dtype, [&](auto t) {
    using T = decltype(t);
    return aligned && args.dim % kPack16<T> == 0 ? Launch<T, kPack16<T>>(args, stream)
                                                 : Launch<T, 1>(args, stream);
  });
}

}  // namespace fathom::kernels::cuda
