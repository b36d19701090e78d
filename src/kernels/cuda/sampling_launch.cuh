#pragma once

// Launches one cluster of blocks a row: as many blocks as the device has room for, so that few rows
// still get its bandwidth. What a row gives does not depend on their number.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/sampling_row.cuh"

namespace fathom::kernels::cuda {

inline int32_t SamplingClusterBlocks(int32_t num_rows, int32_t multiprocessors) {
  constexpr int32_t kBlocksPerMultiprocessor = 2;
  int32_t blocks = kMaxClusterBlocks;
  while (blocks > 1 && num_rows * blocks > multiprocessors * kBlocksPerMultiprocessor) blocks /= 2;
  return blocks;
}

template <typename Args, typename... Rest>
cudaError_t LaunchRowClusters(void (*kernel)(Args, Rest...), int32_t num_rows, int32_t vocab,
                              cudaStream_t stream, const Args& args, Rest... rest) {
  int device = 0;
  int multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const size_t shared_bytes = RowSharedBytes(vocab);
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;

  const int32_t blocks = SamplingClusterBlocks(num_rows, multiprocessors);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(num_rows * blocks));
  config.blockDim = dim3(kSamplingThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args, rest...);
}

}  // namespace fathom::kernels::cuda
