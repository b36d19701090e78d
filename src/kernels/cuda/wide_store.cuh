#pragma once

// How the sums of a tile go from registers to the output. An accumulator holds rows of W down and
// tokens across, the output tokens down, so 16-bit results are transposed 8 by 8 on the way. For
// linear_wide.cu.

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/wide_stream.cuh"

namespace fathom::kernels::cuda {

// Two neighbours of a column become two of a row: of an 8 by 8 matrix of 16-bit elements, whose row
// r lies in lanes 4r to 4r + 3.
__device__ inline uint32_t Transposed(uint32_t pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}

template <typename Out>
__device__ inline uint32_t Pair(float low, float high) {
  const Pack<Out, 2> pair = {FromFloat<Out>(low), FromFloat<Out>(high)};
  return *reinterpret_cast<const uint32_t*>(&pair);
}

class WideStore {
 public:
  // Unless `live`, goes all the way and stores nothing.
  __device__ WideStore(const WideParams& params, bool live)
      : params_(params), rows_(live ? params.rows : 0) {}

  // A warp's 16 rows of W, the first being `row`; rows from `end` on are not the tile's. Tokens by
  // eights, from `first` up to `last`.
  template <int kTiles>
  __device__ void Fragment(const float (&sums)[kTiles][4], int32_t row, int32_t end, int32_t first,
                           int32_t last) const {
    const int32_t lane = threadIdx.x % 32;
    const bool low_in = row < end;
    const bool high_in = row + 8 < end;
    const float low_bias = low_in ? Bias(row + lane / 4) : 0;
    const float high_bias = high_in ? Bias(row + 8 + lane / 4) : 0;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      if (i < first || i >= last || i * 8 >= params_.rows) continue;
      const float a = sums[i][0] + low_bias;
      const float b = sums[i][1] + low_bias;
      const float c = sums[i][2] + high_bias;
      const float d = sums[i][3] + high_bias;
      switch (params_.out_dtype) {
        case DType::kF32: {
          const int32_t token = i * 8 + lane % 4 * 2;
          StoreFloats(a, b, row + lane / 4, token, low_in);
          StoreFloats(c, d, row + 8 + lane / 4, token, high_in);
          break;
        }
        case DType::kF16:
          StorePairs(Pair<__half>(a, b), Pair<__half>(c, d), row, i * 8, low_in, high_in);
          break;
        default:
          StorePairs(Pair<__nv_bfloat16>(a, b), Pair<__nv_bfloat16>(c, d), row, i * 8, low_in,
                     high_in);
          break;
      }
    }
  }

 private:
  __device__ float Bias(int32_t row) const {
    return params_.bias == nullptr ? 0 : params_.bias[row];
  }
  __device__ void StoreFloats(float first, float second, int32_t row, int32_t token,
                              bool in) const {
    float* at = static_cast<float*>(params_.out) + static_cast<int64_t>(token) * params_.n + row;
    if (in && token < rows_) at[0] = first;
    if (in && token + 1 < rows_) at[params_.n] = second;
  }
  __device__ void StorePairs(uint32_t low, uint32_t high, int32_t row, int32_t first_token,
                             bool low_in, bool high_in) const {
    low = Transposed(low);
    high = Transposed(high);
    const int32_t lane = threadIdx.x % 32;
    const int32_t token = first_token + lane / 4;
    if (token >= rows_) return;
    uint32_t* at = static_cast<uint32_t*>(params_.out) +
                   (static_cast<int64_t>(token) * params_.n + row) / 2 + lane % 4;
    if (low_in) at[0] = low;
    if (high_in) at[4] = high;
  }

  const WideParams& params_;
  const int32_t rows_;
};

}  // namespace fathom::kernels::cuda
