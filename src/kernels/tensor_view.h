#pragma once

// A dense row-major tensor that belongs to someone else.

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

inline constexpr int32_t kMaxTensorRank = 4;

struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int32_t rank = 0;
  std::array<int64_t, kMaxTensorRank> shape = {};

  int64_t NumElements() const {
    int64_t n = 1;
    for (int32_t i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  size_t NumBytes() const { return static_cast<size_t>(NumElements()) * SizeOf(dtype); }
};

}  // namespace fathom::kernels
