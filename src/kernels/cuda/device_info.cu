#include "kernels/cuda/device_info.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cuda {

cudaError_t QueryDevice(int32_t ordinal, DeviceInfo* out) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, ordinal);
  if (error != cudaSuccess) return error;
  out->compute_major = properties.major;
  out->compute_minor = properties.minor;
  out->num_multiprocessors = properties.multiProcessorCount;
  out->memory_bytes = properties.totalGlobalMem;
  return cudaSuccess;
}

}  // namespace fathom::kernels::cuda
