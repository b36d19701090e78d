#pragma once

// How sampling orders tokens, and reductions over a block. An order is one integer: the logit's
// bits made monotonic, then the complement of the id, so that the greater order is the better token
// and equal logits go to the lower id. It is total, hence whatever is chosen by it does not depend
// on how a row was divided among threads.

#include <cstdint>

#include "kernels/philox.h"

namespace fathom::kernels::cuda {

inline constexpr int32_t kSamplingThreads = 512;
inline constexpr int32_t kSamplingWarps = kSamplingThreads / 32;
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFU;
inline constexpr float kLog2E = 1.44269504F;
inline constexpr float kNegInf = -__builtin_huge_valf();
inline constexpr float kLowestFloat = -3.402823466e38F;

// -0 and +0 are equal, as they are to `<`.
__device__ inline uint32_t OrderKey(float x) {
  const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0F));
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000U);
}

__device__ inline float LogitOfKey(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key ^ 0x80000000U : ~key);
}

inline constexpr uint32_t kMaskedKey = 0x007FFFFFU;  // OrderKey(-infinity)
inline constexpr uint64_t kFirstAllowed = uint64_t{kMaskedKey + 1} << 32;

__device__ inline uint64_t OrderOf(float x, int32_t id) {
  return static_cast<uint64_t>(OrderKey(x)) << 32 | static_cast<uint32_t>(~id);
}
__device__ inline int32_t IdOfOrder(uint64_t order) {
  return ~static_cast<int32_t>(static_cast<uint32_t>(order));
}
__device__ inline float LogitOfOrder(uint64_t order) {
  return LogitOfKey(static_cast<uint32_t>(order >> 32));
}

// A token with its noise; id < 0: none.
struct NoisyToken {
  float logit = kNegInf;
  float noise = 0;
  int32_t id = -1;
};

// What a row's weights and noise are made of.
struct NoiseSource {
  uint64_t seed;
  uint32_t choice;
  uint32_t position;
  double exact_inverse;       // of the temperature
  float inverse_temperature;  // the same, but finite, or differences of zero would become NaN
  float weight_scale;         // a weight is 2^((logit - greatest) * weight_scale)
};

// By logit / temperature + noise. The difference is taken before the division, in double, so that
// large logits over small temperatures leave the noise its digits.
__device__ inline bool Beats(const NoisyToken& a, const NoisyToken& b, double inverse_temperature) {
  if (a.id < 0 || b.id < 0) return b.id < 0 && a.id >= 0;
  const double ahead =
      (static_cast<double>(a.logit) - static_cast<double>(b.logit)) * inverse_temperature +
      (static_cast<double>(a.noise) - static_cast<double>(b.noise));
  return ahead > 0 || (ahead == 0 && a.id < b.id);
}

// Gumbel noise as the CPU computes it. Rarely needed, in places that are unrolled: a call keeps
// them small.
__device__ __noinline__ inline float GumbelNoise(uint32_t draw) {
  const float v = fminf((static_cast<float>(draw) + 0.5F) * 0x1p-32F, 1.0F - 0x1p-24F);
  return -logf(-log1pf(-v));
}

// At least GumbelNoise(draw), but for rounding, which kNoiseSlack covers:
// -log(-log1p(-v)) <= -log(v).
inline constexpr float kNoiseSlack = 1e-3F;
inline constexpr float kLargestNoise = 22.88F;
__device__ inline float NoiseBound(uint32_t draw) {
  return fmaf(-0.69314718F, __log2f(static_cast<float>(draw) + 0.5F), 32 * 0.69314718F);
}

__device__ inline uint32_t DrawOf(const Philox4x32& draws, int32_t i) {
  return i == 0 ? draws.v[0] : i == 1 ? draws.v[1] : i == 2 ? draws.v[2] : draws.v[3];
}

// The reduction of every thread's value, in an order that depends on nothing but the thread
// indices; every thread gets it. `scratch`: one value a warp, in shared memory.
template <typename V, typename Op>
__device__ V BlockReduce(V value, V* scratch, Op op) {
  for (int32_t lanes = 16; lanes > 0; lanes /= 2) {
    value = op(value, __shfl_xor_sync(kAllLanes, value, lanes));
  }
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[0];
#pragma unroll 4
  for (int32_t i = 1; i < kSamplingWarps; ++i) value = op(value, scratch[i]);
  __syncthreads();
  return value;
}

__device__ inline double BlockSum(double value, double* scratch) {
  return BlockReduce(value, scratch, [](double a, double b) { return a + b; });
}
__device__ inline uint64_t BlockMax(uint64_t value, uint64_t* scratch) {
  return BlockReduce(value, scratch, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

// The winner among the threads', in every thread.
__device__ inline NoisyToken BlockBest(NoisyToken best, double inverse_temperature,
                                       NoisyToken* scratch) {
  for (int32_t lanes = 16; lanes > 0; lanes /= 2) {
    const NoisyToken other{__shfl_xor_sync(kAllLanes, best.logit, lanes),
                           __shfl_xor_sync(kAllLanes, best.noise, lanes),
                           __shfl_xor_sync(kAllLanes, best.id, lanes)};
    if (Beats(other, best, inverse_temperature)) best = other;
  }
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
  __syncthreads();
  best = scratch[0];
#pragma unroll 1
  for (int32_t i = 1; i < kSamplingWarps; ++i) {
    if (Beats(scratch[i], best, inverse_temperature)) best = scratch[i];
  }
  __syncthreads();
  return best;
}

}  // namespace fathom::kernels::cuda
