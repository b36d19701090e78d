#pragma once

// Programmatic dependent launch: a kernel may begin while the one before it in the stream still
// runs, and waits itself for what that one writes. Only .cu files include it.

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace fathom::kernels::cuda {

// Until everything the kernels before this one in the stream wrote is there; at once in a kernel
// that was launched without dependence. Every kernel that LaunchChained starts calls it before it
// reads what they wrote or writes what they may still read.
__device__ inline void WaitForPredecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel of the stream begin, as far as there is room, once every block has said so.
// Short kernels say so before they wait: what comes behind them then fills its shared memory with
// weights while they and the kernel before them still run.
__device__ inline void LetSuccessorStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
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

}  // namespace fathom::kernels::cuda
