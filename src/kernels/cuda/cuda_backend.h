#pragma once

// The backend of one NVIDIA GPU: Hopper (sm_90a). Operations are launched on one stream and return
// at once. Matrices stay row-major in the type they multiply in.

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace fathom::kernels::cuda {

struct CudaOptions {
  int32_t ordinal = 0;
  int32_t max_rows = 256;          // sequences of a step, rows of a sampling
  int32_t max_vocab = 256 * 1024;  // of logits that are sampled
  // Results do not depend on the batch: products and attention of one fixed order, which is slower.
  bool batch_invariant = false;
};

// FAILED_PRECONDITION tells why there is no usable GPU.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options);

// Bytes the device has free now, and in all.
struct DeviceMemory {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
absl::StatusOr<DeviceMemory> QueryMemory(int32_t ordinal);

// The GPU as it is now, without a backend on it (workspace_bytes is 0). What backends of this
// process have freed counts as free with `trim`, which gives it back to the driver first.
// FAILED_PRECONDITION as above.
absl::StatusOr<DeviceFacts> DescribeGpu(int32_t ordinal, bool trim);

}  // namespace fathom::kernels::cuda
