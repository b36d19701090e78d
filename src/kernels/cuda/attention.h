#pragma once

// Attention over the paged cache on the GPU. Sequences that bring one query go to the decode
// kernel, which cuts all their keys into equal shares; longer ones go to the prefill kernel.
// Everything a launch depends on besides device memory is in its arguments, so a captured graph may
// replay it while the sequences grow.
//
// Results do not depend on the run; those of the decode kernel depend on what else is in the batch,
// within rounding. NaN and inf go where the reference lets them go, with one exception: in the
// prefill kernel a NaN or inf value also reaches the queries of its own sequence that share a tile
// with a query that sees it.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/op_args.h"

namespace fathom::kernels::cuda {

// What the host knows of the sequences, which lie in device memory.
struct AttentionHints {
  int32_t max_query_len = 1;  // 1: all sequences decode
  int32_t num_decodes = -1;   // sequences with query_len 1; -1: not known
  int32_t num_multiprocessors = 132;
  // A query's result depends on its own sequence alone, not on the batch or on chunks of prefill:
  // everything takes the prefill kernel, or the plain one where Hopper's does not fit.
  bool batch_invariant = false;
  // Of a launch with FusedRotaryArgs: nothing that may still run when it starts early writes what
  // it reads besides qkv and the angles (the promise of op_args.h, kept by a captured step).
  bool settled = false;
};

// Enough for every launch: the kernels divide the work by multiprocessors, not by sequences. Its
// owner sets all bits once, and every launch leaves it so.
size_t AttentionWorkspaceBytes(int32_t num_multiprocessors);

// Once for each device, before its first launch: allows the kernels the shared memory they need.
cudaError_t PrepareAttention();

// Whether LaunchPagedAttention takes `args` with their rotary part: where each sequence has one
// token at most and the decode kernel takes the rest.
bool FusesRotary(const PagedAttentionArgs& args);

// head_dim 64, 96, 128 or 256 in BF16 and F16, with block_tokens a multiple of 8, everything
// aligned to 16 bytes and a positive scale; all else, F32 included, takes a plain kernel.
// `workspace` belongs to this launch until it has ended.
cudaError_t LaunchPagedAttention(const PagedAttentionArgs& args, const AttentionHints& hints,
                                 void* workspace, size_t workspace_bytes, cudaStream_t stream);

}  // namespace fathom::kernels::cuda
