#pragma once

// What the wide kernel's products do besides where they fuse what surrounds them (LinearFusion):
// the division of an RMS norm, SiLU, the residual. Roundings are where the separate operations have
// theirs, but for the norm's, whose input is not rounded once more after the division. For
// wide_kernel.cuh.

#include "kernels/cuda/wide_store.cuh"

namespace fathom::kernels::cuda {

// Beside consumers and producer: they add up the rows' sums of squares while products run.
inline constexpr int kWideScaleWarps = 4;

// By the scale warps; `warp` counts them.
__device__ inline void PrepareScales(const WideParams& params, int32_t warp) {
  // Rows, and parts of a row by a lane, whose reads overlap.
  constexpr int kAtOnce = 4;
  constexpr int kPartsAtOnce = 8;
  const LinearFusion& fusion = params.fusion;
  if (fusion.square_sums == nullptr) return;
  WaitForPredecessor();
  const int32_t lane = threadIdx.x % 32;
  for (int32_t base = warp * kAtOnce; base < params.rows; base += kWideScaleWarps * kAtOnce) {
    float sums[kAtOnce] = {};
    for (int32_t first = lane; first < fusion.square_parts; first += 32 * kPartsAtOnce) {
      float parts[kAtOnce][kPartsAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int32_t row = min(base + i, params.rows - 1);
        const float* at = fusion.square_sums + int64_t{row} * fusion.square_pitch;
#pragma unroll
        for (int j = 0; j < kPartsAtOnce; ++j) {
          const int32_t part = first + j * 32;
          parts[i][j] = part < fusion.square_parts ? __ldcg(at + part) : 0;
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
        for (int j = 0; j < kPartsAtOnce; ++j) sums[i] += parts[i][j];
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (base + i >= params.rows) break;
      const float sum = WarpSum(sums[i]);
      if (lane == 0) {
        Scales(params.layout)[base + i] =
            1.0F / sqrtf(sum / static_cast<float>(params.k) + fusion.norm_eps);
      }
    }
  }
  __syncwarp();
  if (lane == 0) ptx::Arrive(ScalesBarrier(params.layout));
}

// A warp's 16 rows of W, the first being `row`, a multiple of 16; rows from `end` on are not the
// tile's. Tokens by eights, from `first` up to `last`.
template <typename T>
class WideFusedStore {
 public:
  // What the end of a tile adds to, read long before.
  template <int kTiles>
  struct Old {
    uint32_t residual[kTiles][2];
    float weight[4];
  };

  // Unless `live`, goes all the way and stores nothing.
  __device__ WideFusedStore(const WideParams& params, bool live)
      : params_(params),
        fusion_(params.fusion),
        rows_(live ? params.rows : 0),
        lane_(threadIdx.x % 32) {}

  template <int kTiles>
  __device__ void Load(Old<kTiles>& old, int32_t row, int32_t end, int32_t first,
                       int32_t last) const {
    const int32_t column = row + lane_ % 4 * 2;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int32_t at = column + j / 2 * 8 + j % 2;
      old.weight[j] = row < end ? fusion_.norm_weight[at] : 0;
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int32_t token = i * 8 + lane_ / 4;
      if (row >= end || i < first || i >= last || token >= params_.rows) continue;
      const uint32_t* at = At(fusion_.residual, token, params_.n, column);
      old.residual[i][0] = at[0];
      old.residual[i][1] = at[4];
    }
  }

  // Where rows hold the norm's input times its weight, what is left of the norm.
  template <int kTiles>
  __device__ void Divide(float (&sums)[kTiles][4]) const {
    const float* scales = Scales(params_.layout);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] *= scales[i * 8 + lane_ % 4 * 2 + j % 2];
    }
  }

  // The upper eight rows are gates, the lower eight what they let through.
  template <int kTiles>
  __device__ void Gated(const float (&sums)[kTiles][4], int32_t row, int32_t end, int32_t first,
                        int32_t last) const {
    if (row >= end) return;
    const int32_t half = params_.n / 2;
    const int32_t column = row / 2;
    const float gate_bias = Bias(column + lane_ / 4);
    const float up_bias = Bias(half + column + lane_ / 4);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      if (i < first || i >= last || i * 8 >= params_.rows) continue;
      float result[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float gate = Rounded<T>(sums[i][j] + gate_bias);
        const float up = Rounded<T>(sums[i][j + 2] + up_bias);
        // Both are rounded to 16 bits right after.
        result[j] = Rounded<T>(__fdividef(gate, 1.0F + __expf(-gate))) * up;
      }
      const uint32_t pair = Transposed(Pair<T>(result[0], result[1]));
      const int32_t token = i * 8 + lane_ / 4;
      if (token < rows_) *At(params_.out, token, half, column + lane_ % 4 * 2) = pair;
    }
  }

  template <int kTiles>
  __device__ void AddToResidual(const float (&sums)[kTiles][4], const Old<kTiles>& old, int32_t row,
                                int32_t end, int32_t first, int32_t last) const {
    if (row >= end) return;
    const float low_bias = Bias(row + lane_ / 4);
    const float high_bias = Bias(row + 8 + lane_ / 4);
    const int32_t column = row + lane_ % 4 * 2;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      if (i < first || i >= last || i * 8 >= params_.rows) continue;
      const int32_t token = i * 8 + lane_ / 4;
      const bool in = token < rows_;
      const uint32_t products[2] = {
          Transposed(Pair<T>(sums[i][0] + low_bias, sums[i][1] + low_bias)),
          Transposed(Pair<T>(sums[i][2] + high_bias, sums[i][3] + high_bias))};
      float squares = 0;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (!in) continue;
        const float2 product = Floats(products[j]);
        const float2 before = Floats(old.residual[i][j]);
        const uint32_t added = Pair<T>(before.x + product.x, before.y + product.y);
        const float2 after = Floats(added);
        At(fusion_.residual, token, params_.n, column)[j * 4] = added;
        At(params_.out, token, params_.n, column)[j * 4] =
            Pair<T>(after.x * old.weight[j * 2], after.y * old.weight[j * 2 + 1]);
        squares += after.x * after.x + after.y * after.y;
      }
      squares += __shfl_xor_sync(~0U, squares, 1);
      squares += __shfl_xor_sync(~0U, squares, 2);
      if (in && lane_ % 4 == 0) {
        fusion_.residual_squares[int64_t{token} * fusion_.square_pitch + row / 16] = squares;
      }
    }
  }

 private:
  __device__ float Bias(int32_t row) const {
    return params_.bias == nullptr ? 0 : params_.bias[row];
  }
  // Two neighbours at (token, column), column being even.
  __device__ static uint32_t* At(void* matrix, int32_t token, int32_t columns, int32_t column) {
    return static_cast<uint32_t*>(matrix) + (static_cast<int64_t>(token) * columns + column) / 2;
  }
  __device__ static float2 Floats(uint32_t pair) {
    const auto& both = *reinterpret_cast<const Pack<T, 2>*>(&pair);
    return make_float2(ToFloat(both.v[0]), ToFloat(both.v[1]));
  }

  const WideParams& params_;
  const LinearFusion& fusion_;
  const int32_t rows_;
  const int32_t lane_;
};

}  // namespace fathom::kernels::cuda
