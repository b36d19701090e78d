#pragma once

// What becomes of a finished sum of the skinny kernel: bias and type, and, where the product fuses
// what surrounds it (LinearFusion), the division of an RMS norm, SiLU, the residual. Roundings are
// where the separate operations have theirs, but for the norm's, whose input is not rounded once
// more after the division. For linear_skinny.cu.

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/skinny_stream.cuh"

namespace fathom::kernels::cuda {

template <typename T, int kTokens>
class SkinnyStore {
 public:
  static constexpr bool kFuses = kTokens <= kSkinnyFusedRowsMax;

  __device__ SkinnyStore(const SkinnyParams& params)
      : params_(params),
        fusion_(params.fusion),
        scales_(reinterpret_cast<float*>(skinny_shared + params.layout.scales_offset)) {}

  // A thread's share of a row's parts of a sum of squares: the first ones are read early, so that
  // nobody waits for them.
  static constexpr int kThreadsEach = 32 * kSkinnyConsumerWarps / kTokens;
  static constexpr int kSquaresEarly = kTokens <= 8 ? 8 : 16;
  struct Squares {
    float parts[kSquaresEarly] = {};
  };

  // By all consumer threads, after the kernels ahead have ended.
  __device__ Squares LoadSquares() const {
    Squares out;
    const int32_t token = threadIdx.x / kThreadsEach;
    if (fusion_.square_sums == nullptr || token >= params_.rows) return out;
    const float* parts = fusion_.square_sums + int64_t{token} * fusion_.square_pitch;
#pragma unroll
    for (int i = 0; i < kSquaresEarly; ++i) {
      const int32_t part = threadIdx.x % kThreadsEach + i * kThreadsEach;
      if (part < fusion_.square_parts) out.parts[i] = __ldcg(parts + part);
    }
    return out;
  }

  // By all consumer threads, before a barrier that the first store comes behind. A row's parts are
  // added in one fixed order.
  __device__ void PrepareScales(const Squares& early) const {
    if (fusion_.square_sums == nullptr) return;
    const int32_t token = threadIdx.x / kThreadsEach;
    const int32_t first = threadIdx.x % kThreadsEach;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kSquaresEarly; ++i) sum += early.parts[i];
    if (token < params_.rows) {
      const float* parts = fusion_.square_sums + int64_t{token} * fusion_.square_pitch;
#pragma unroll 4
      for (int32_t i = first + kSquaresEarly * kThreadsEach; i < fusion_.square_parts;
           i += kThreadsEach) {
        sum += __ldcg(parts + i);
      }
    }
#pragma unroll
    for (int32_t offset = kThreadsEach / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(~0U, sum, offset);
    }
    if (first == 0) {
      scales_[token] = 1.0F / sqrtf(sum / static_cast<float>(params_.k) + fusion_.norm_eps);
    }
  }

  __device__ void Result(int32_t column, int32_t token, float sum) const {
    if (column >= params_.n) return;
    sum = Finished(column, token, sum);
    const int64_t at = static_cast<int64_t>(token) * params_.n + column;
    switch (params_.out_dtype) {
      case DType::kF32:
        static_cast<float*>(params_.out)[at] = sum;
        break;
      case DType::kF16:
        static_cast<__half*>(params_.out)[at] = __float2half_rn(sum);
        break;
      default:
        static_cast<__nv_bfloat16*>(params_.out)[at] = __float2bfloat16_rn(sum);
        break;
    }
  }

  // `column` of the gates, which are the first half of W's rows.
  __device__ void Gated(int32_t column, int32_t token, float gate, float up) const {
    const int32_t half = params_.n / 2;
    if (column >= half) return;
    const float g = Rounded<T>(Finished(column, token, gate));
    const float u = Rounded<T>(Finished(column + half, token, up));
    static_cast<T*>(params_.out)[static_cast<int64_t>(token) * half + column] =
        FromFloat<T>(Rounded<T>(g / (1.0F + expf(-g))) * u);
  }

  // The new residual; the old one is handed in, so that it can be read early.
  __device__ float AddedToResidual(int32_t column, int32_t token, float sum, float old,
                                   float weight) const {
    const int64_t at = static_cast<int64_t>(token) * params_.n + column;
    const T sum_rounded = FromFloat<T>(Finished(column, token, sum));
    const T added = FromFloat<T>(old + ToFloat(sum_rounded));
    static_cast<T*>(fusion_.residual)[at] = added;
    static_cast<T*>(params_.out)[at] = FromFloat<T>(ToFloat(added) * weight);
    return ToFloat(added);
  }
  __device__ float OldResidual(int32_t column, int32_t token) const {
    return ToFloat(
        static_cast<const T*>(fusion_.residual)[static_cast<int64_t>(token) * params_.n + column]);
  }
  __device__ float NormWeight(int32_t column) const { return fusion_.norm_weight[column]; }

  // By a whole warp, whose lanes hold neighbouring results of one token, 0 where there is none;
  // `column` is this lane's, a multiple of 16 in lanes 0 and 16.
  __device__ void KeepSquares(int32_t column, int32_t token, float result) const {
    float sum = result * result;
#pragma unroll
    for (int32_t offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0U, sum, offset);
    if (threadIdx.x % 16 == 0 && column < params_.n) {
      fusion_.residual_squares[int64_t{token} * fusion_.square_pitch + column / 16] = sum;
    }
  }

 private:
  __device__ float Finished(int32_t column, int32_t token, float sum) const {
    if (kFuses && fusion_.square_sums != nullptr) sum *= scales_[token];
    return params_.bias == nullptr ? sum : sum + params_.bias[column];
  }

  const SkinnyParams& params_;
  const LinearFusion& fusion_;
  float* const scales_;
};

}  // namespace fathom::kernels::cuda
