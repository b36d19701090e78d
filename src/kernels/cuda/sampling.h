#pragma once

// Sampling on the GPU: the contract of kernels/sampling_args.h, all pointers in device memory, no
// wait for the host; what comes out may go to pinned memory of the host. The token of a row equals
// the CPU's wherever no two scores lie closer than the rounding of exp and log, and does not depend
// on what else is in the batch. Nobody checks the rows: rows, ids and the num_logprobs they name
// must be in range.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/sampling_args.h"

namespace fathom::kernels::cuda {

// Enough for every launch of at most so many rows; its content does not matter. Scoring needs none.
size_t SamplingWorkspaceBytes(int32_t max_rows, int32_t vocab);

// `began`: what LaunchEmbedding has written of the clock; read where args.clock is set.
cudaError_t LaunchSampleTokens(const SamplingArgs& args, const uint64_t* began, void* workspace,
                               size_t workspace_bytes, cudaStream_t stream);
cudaError_t LaunchScoreTokens(const ScoringArgs& args, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream);

}  // namespace fathom::kernels::cuda
