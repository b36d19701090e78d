#pragma once

// CUDA's errors as absl::Status: out of memory is RESOURCE_EXHAUSTED, no usable device or driver
// FAILED_PRECONDITION, all else INTERNAL, which means that the device is lost to this process.

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace fathom::kernels::cuda {

inline absl::Status ToStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text = absl::StrCat("CUDA: ", what, ": ", cudaGetErrorString(error), " (",
                                        cudaGetErrorName(error), ")");
  switch (error) {
    case cudaErrorMemoryAllocation:
      (void)cudaGetLastError();  // not sticky
      return absl::ResourceExhaustedError(text);
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoKernelImageForDevice:
      return absl::FailedPreconditionError(text);
    default:
      return absl::InternalError(text);
  }
}

}  // namespace fathom::kernels::cuda

// For functions that return absl::Status or a StatusOr.
#define RETURN_IF_CUDA_ERROR(expression)                                                     \
  do {                                                                                       \
    if (const cudaError_t cuda_error = (expression); cuda_error != cudaSuccess) [[unlikely]] \
      return ::fathom::kernels::cuda::ToStatus(cuda_error, #expression);                     \
  } while (false)
