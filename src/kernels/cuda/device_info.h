#pragma once

// What the CUDA backend will ask a device before it plans anything. Thread safety: pure functions.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace fathom::kernels::cuda {

struct DeviceInfo {
  int32_t compute_major = 0;
  int32_t compute_minor = 0;
  int32_t num_multiprocessors = 0;
  size_t memory_bytes = 0;
};

cudaError_t QueryDevice(int32_t ordinal, DeviceInfo* out);

}  // namespace fathom::kernels::cuda
