#pragma once

// Storage types on the GPU: loads of 16 bytes, conversion to FP32 and back with one rounding, sums
// over a block. Only .cu files include it.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace fathom::kernels::cuda {

__device__ inline float ToFloat(float v) { return v; }
__device__ inline float ToFloat(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float ToFloat(__half v) { return __half2float(v); }

template <typename T>
__device__ T FromFloat(float v);
template <>
__device__ inline float FromFloat<float>(float v) {
  return v;
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ inline __half FromFloat<__half>(float v) {
  return __float2half_rn(v);
}

// What is left of `v` after a store to T.
template <typename T>
__device__ float Rounded(float v) {
  return ToFloat(FromFloat<T>(v));
}

// `kCount` neighbours, moved in one access.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T v[kCount];
};
template <typename T>
inline constexpr int kPack16 = 16 / static_cast<int>(sizeof(T));

template <typename T, int kCount>
__device__ Pack<T, kCount> LoadPack(const T* at) {
  return *reinterpret_cast<const Pack<T, kCount>*>(at);
}
template <typename T, int kCount>
__device__ void StorePack(T* at, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(at) = pack;
}

// Nanoseconds of a clock that all multiprocessors share and that never goes back.
__device__ inline uint64_t DeviceClockNs() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns)::"memory");
  return ns;
}

__device__ inline float WarpSum(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(~0U, v, offset);
  return v;
}

// The sum over all threads of a block, to all of them. `scratch`: 32 floats of shared memory.
__device__ inline float BlockSum(float v, float* scratch) {
  v = WarpSum(v);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) scratch[warp] = v;
  __syncthreads();
  const int warps = (static_cast<int>(blockDim.x) + 31) / 32;
  return WarpSum(lane < warps ? scratch[lane] : 0.0F);
}

}  // namespace fathom::kernels::cuda
