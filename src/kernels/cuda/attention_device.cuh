#pragma once

// What the attention kernels share: finding a block's sequence, and small arithmetic.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace fathom::kernels::cuda {

inline constexpr float kLog2E = 1.4426950408889634F;

template <typename... Params>
cudaError_t AllowShared(void (*kernel)(Params...), int32_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// A maximum to subtract: where no score is above -inf, exponentials must come out 0 and not NaN.
__device__ inline float Subtrahend(float maximum) { return maximum == -INFINITY ? 0.0F : maximum; }

// Four consecutive elements.
__device__ inline void Store4(float* out, float4 v) { *reinterpret_cast<float4*>(out) = v; }
template <typename T>
__device__ void Store4(T* out, float4 v) {
  *reinterpret_cast<uint2*>(out) = make_uint2(PackPair<T>(v.x, v.y), PackPair<T>(v.z, v.w));
}

// The sum of the `value`s of lower threads; `total` of all. Ends with the block synchronised.
template <int kThreads>
__device__ int32_t BlockExclusiveSum(int32_t value, int32_t& total) {
  static_assert(kThreads % 32 == 0);
  __shared__ int32_t warp_sums[kThreads / 32];
  const int32_t lane = threadIdx.x % 32;
  const int32_t warp = threadIdx.x / 32;
  int32_t inclusive = value;
  for (int32_t distance = 1; distance < 32; distance *= 2) {
    const int32_t other = __shfl_up_sync(0xFFFFFFFFU, inclusive, distance);
    if (lane >= distance) inclusive += other;
  }
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  int32_t before = inclusive - value;
  total = 0;
  for (int32_t i = 0; i < kThreads / 32; ++i) {
    if (i < warp) before += warp_sums[i];
    total += warp_sums[i];
  }
  __syncthreads();
  return before;
}

// Pieces of all sequences laid end to end.
struct SequencePieces {
  int32_t sequence = 0;  // that holds the piece looked for
  int32_t before = 0;    // pieces of the sequences before it
};

// `pieces(span)` says how many each sequence has. `wanted(total)` turns their sum into a piece to
// look for, or a negative number: then every thread returns false. There is at least one sequence.
// All threads of a block call it once.
template <int kThreads, typename Pieces, typename Wanted>
__device__ bool FindSequence(const SequenceSpan* sequences, int32_t num_sequences,
                             const Pieces& pieces, const Wanted& wanted, SequencePieces& found) {
  constexpr uint32_t kAll = 0xFFFFFFFFU;
  if (num_sequences <= 32) {
    // Every warp by itself, so that none waits for another.
    const int32_t lane = threadIdx.x % 32;
    const int32_t mine = lane < num_sequences ? pieces(sequences[lane]) : 0;
    int32_t end = mine;
    for (int32_t distance = 1; distance < num_sequences; distance *= 2) {
      const int32_t other = __shfl_up_sync(kAll, end, distance);
      if (lane >= distance) end += other;
    }
    const int32_t piece = wanted(__shfl_sync(kAll, end, num_sequences - 1));
    if (piece < 0) return false;
    const uint32_t holders = __ballot_sync(kAll, end - mine <= piece && piece < end);
    found.sequence = __ffs(static_cast<int32_t>(holders)) - 1;
    found.before = __shfl_sync(kAll, end - mine, found.sequence);
    return true;
  }
  __shared__ int32_t shared_sequence;
  __shared__ int32_t shared_before;
  const int32_t share = (num_sequences + kThreads - 1) / kThreads;
  const int32_t begin = min(static_cast<int32_t>(threadIdx.x) * share, num_sequences);
  const int32_t end = min(begin + share, num_sequences);
  int32_t mine = 0;
  for (int32_t i = begin; i < end; ++i) mine += pieces(sequences[i]);
  int32_t total;
  int32_t before = BlockExclusiveSum<kThreads>(mine, total);
  const int32_t piece = wanted(total);
  if (piece < 0) return false;
  if (before <= piece && piece < before + mine) {
    for (int32_t i = begin; i < end; ++i) {
      const int32_t count = pieces(sequences[i]);
      if (piece < before + count) {
        shared_sequence = i;
        shared_before = before;
        break;
      }
      before += count;
    }
  }
  __syncthreads();
  found = {shared_sequence, shared_before};
  return true;
}

}  // namespace fathom::kernels::cuda
