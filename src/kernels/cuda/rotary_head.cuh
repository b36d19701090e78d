#pragma once

// One head of a token, held by a warp: RMS norm over it, then rotation. Shared by the kernel that
// does only this and by decode attention that fuses it; both must store the same bits, so sums are
// added in one order, and every product that meets a sum says by name whether it is rounded first.
// Only .cu files include it.

#include "kernels/cuda/device_math.cuh"

namespace fathom::kernels::cuda {

__device__ inline float AddSquares(float sum, float low, float high) {
  return __fmaf_rn(high, high, __fmaf_rn(low, low, sum));
}

__device__ inline float InverseRms(float squares, int dim, float eps) {
  return 1.0F / sqrtf(__fadd_rn(squares / static_cast<float>(dim), eps));
}

template <typename T>
__device__ float Normalized(float v, float inverse, float weight) {
  return Rounded<T>(weight * Rounded<T>(v * inverse));
}

__device__ inline float RotatedLow(float low, float high, float cosine, float sine) {
  return __fmaf_rn(low, cosine, -__fmul_rn(high, sine));
}

__device__ inline float RotatedHigh(float low, float high, float cosine, float sine) {
  return __fmaf_rn(high, cosine, __fmul_rn(low, sine));
}

// Lane l has the pairs (i, i + half), i = l, l + 32, ...; kPairs of them are enough.
template <int kPairs, typename Use>
__device__ void ForPairs(int half, const Use& use) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    if (lane + 32 * k < half) use(k, lane + 32 * k);
  }
}

template <int kPairs>
struct RotaryAngles {
  float cosine[kPairs];
  float sine[kPairs];

  // `cos_sin`: [2, half]
  __device__ void Load(const float* cos_sin, int half) {
    ForPairs<kPairs>(half, [&](int k, int i) {
      cosine[k] = cos_sin[i];
      sine[k] = cos_sin[half + i];
    });
  }
};

template <typename T, int kPairs>
struct RotaryHead {
  float low[kPairs];
  float high[kPairs];

  __device__ void Load(const T* head, int half) {
    ForPairs<kPairs>(half, [&](int k, int i) {
      low[k] = ToFloat(head[i]);
      high[k] = ToFloat(head[half + i]);
    });
  }

  // All lanes of the warp together.
  __device__ void Normalize(const float* weight, int half, float eps) {
    float squares = 0;
    ForPairs<kPairs>(half, [&](int k, int) { squares = AddSquares(squares, low[k], high[k]); });
    const float inverse = InverseRms(WarpSum(squares), 2 * half, eps);
    ForPairs<kPairs>(half, [&](int k, int i) {
      low[k] = Normalized<T>(low[k], inverse, weight[i]);
      high[k] = Normalized<T>(high[k], inverse, weight[half + i]);
    });
  }

  __device__ void Rotate(const RotaryAngles<kPairs>& angles, int half) {
    ForPairs<kPairs>(half, [&](int k, int) {
      const float a = low[k];
      const float b = high[k];
      low[k] = RotatedLow(a, b, angles.cosine[k], angles.sine[k]);
      high[k] = RotatedHigh(a, b, angles.cosine[k], angles.sine[k]);
    });
  }

  __device__ void Store(T* head, int half) const {
    ForPairs<kPairs>(half, [&](int k, int i) {
      head[i] = FromFloat<T>(low[k]);
      head[half + i] = FromFloat<T>(high[k]);
    });
  }
};

}  // namespace fathom::kernels::cuda
