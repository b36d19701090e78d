#pragma once

// Launches for .cu files: a kernel for a storage type, with or without programmatic dependence.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "kernels/dtype.h"

namespace fathom::kernels::cuda {

// Calls `call(T{})` with the type that stores `dtype`.
template <typename Call>
cudaError_t WithType(DType dtype, Call&& call) {
  switch (dtype) {
    case DType::kF32:
      return call(float{});
    case DType::kBF16:
      return call(__nv_bfloat16{});
    case DType::kF16:
      return call(__half{});
    default:
      return cudaErrorInvalidValue;
  }
}

// Every kernel launched here begins with WaitForPredecessor: it may be started while the one before
// it in the stream still runs. A multiprocessor does not mix kernels that partition its shared
// memory differently, so all ask for the partition of the products, which need all of it.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchChained(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

constexpr unsigned CeilDiv(int64_t a, int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

}  // namespace fathom::kernels::cuda
