#pragma once

// The operations that move or normalise rows, as launches. Arguments were checked (check_args.h);
// each returns the launch's error and waits for nothing.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/op_args.h"

namespace fathom::kernels::cuda {

// What a step begins with; `began`, where it is not null, gets the device's clock
// (device_math.cuh).
cudaError_t LaunchEmbedding(const EmbeddingArgs& args, uint64_t* began, cudaStream_t stream);
cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream);
cudaError_t LaunchRotaryTable(const RotaryTableArgs& args, cudaStream_t stream);
// A token at kv_positions -1 is rotated and not written: it pads a batch.
cudaError_t LaunchRotaryKvWrite(const RotaryKvWriteArgs& args, cudaStream_t stream);
cudaError_t LaunchSiluMul(const SiluMulArgs& args, cudaStream_t stream);
cudaError_t LaunchGatherRows(const GatherRowsArgs& args, cudaStream_t stream);
cudaError_t LaunchCopyBlocks(const CopyBlocksArgs& args, cudaStream_t stream);
cudaError_t LaunchScatter(const ScatterArgs& args, cudaStream_t stream);
// Copies from memory of the host that may change as soon as this returned.
inline constexpr size_t kInlineCopyMax = 32640;
cudaError_t LaunchInlineCopy(void* out, const void* host, size_t bytes, cudaStream_t stream);
// out[i] = x[i], from any float type to any other.
cudaError_t LaunchConvert(void* out, DType out_dtype, const void* x, DType x_dtype, int64_t count,
                          cudaStream_t stream);

}  // namespace fathom::kernels::cuda
