#pragma once

// The kernels behind LaunchPagedAttention. Each launcher takes what its own comment says and checks
// nothing.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_schedule.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cuda {

inline constexpr int32_t kMaxAttentionHeadDim = 256;

// head_dims that the tensor core kernels are built for.
inline constexpr int32_t kTensorHeadDims[] = {64, 96, 128, 256};
constexpr bool IsTensorHeadDim(int32_t head_dim) {
  for (const int32_t known : kTensorHeadDims) {
    if (known == head_dim) return true;
  }
  return false;
}

// Thread blocks of the decode kernel that a multiprocessor holds at once.
constexpr int32_t DecodeBlocksPerMultiprocessor(int32_t head_dim) { return head_dim > 128 ? 1 : 2; }

// A decode worker leaves a part of at most one row, that in whose middle it starts, to the worker
// that began it and waits for each word to be there. All ones between launches.
struct DecodeWorkspace {
  float* outputs = nullptr;     // [workers, kMaxHeadsPerPass, head_dim], not normalised
  float* statistics = nullptr;  // [workers, kMaxHeadsPerPass, 2]: maximum (log2), sum
};

// Any type and any head_dim up to kMaxAttentionHeadDim; every sequence.
cudaError_t LaunchPlainAttention(const PagedAttentionArgs& args, cudaStream_t stream);

// Sequences with query_len 1, IsTensorHeadDim, 16-bit types. `settled`: see AttentionHints.
cudaError_t PrepareDecodeAttention();
cudaError_t LaunchDecodeAttention(const PagedAttentionArgs& args, const DecodeWorkspace& workspace,
                                  int32_t num_workers, bool settled, cudaStream_t stream);

// Sequences with query_len > 1, IsTensorHeadDim, 16-bit types. `num_tokens` and `num_sequences`
// bound what these sequences bring.
cudaError_t PreparePrefillAttention();
cudaError_t LaunchPrefillAttention(const PagedAttentionArgs& args, int32_t num_tokens,
                                   int32_t num_sequences, cudaStream_t stream);

// Where the blocks of a launch take their tiles from. All ones between launches.
struct TileQueue {
  uint32_t drawn;
  uint32_t left;  // blocks that found none
};

// The same with Hopper's own instructions, for caches that FitsHopperPrefill takes, and for
// sequences of `queries_min` queries or more. A query's result depends on its own sequence alone.
bool FitsHopperPrefill(const KvCacheView& kv);
cudaError_t PrepareHopperPrefillAttention();
cudaError_t LaunchHopperPrefillAttention(const PagedAttentionArgs& args, int32_t num_tokens,
                                         int32_t num_sequences, int32_t queries_min,
                                         int32_t num_multiprocessors, TileQueue* queue,
                                         cudaStream_t stream);

}  // namespace fathom::kernels::cuda
