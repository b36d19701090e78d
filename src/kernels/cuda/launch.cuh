#pragma once

// For launches by storage type. Only .cu files include it.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

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

constexpr unsigned CeilDiv(int64_t a, int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

}  // namespace fathom::kernels::cuda
