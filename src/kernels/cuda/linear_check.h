#pragma once

// What the kernels that stream W ask of a product.

#include <cstdint>

#include "kernels/cuda/linear.h"

namespace fathom::kernels::cuda {

// x and W of one 16-bit type, where tensor copies can read them: rows of whole 16 bytes, aligned.
inline bool IsStreamed(const LinearArgs& args, const WeightView& weight) {
  const auto is_aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  };
  return (args.dtype == DType::kBF16 || args.dtype == DType::kF16) && weight.dtype == args.dtype &&
         (args.out_dtype == DType::kF32 || args.out_dtype == DType::kBF16 ||
          args.out_dtype == DType::kF16) &&
         weight.cols % 8 == 0 && is_aligned(args.x) && is_aligned(weight.data);
}

}  // namespace fathom::kernels::cuda
