#pragma once

// How far two computations of one thing may lie apart, by storage type. For tests.

#include "kernels/dtype.h"

namespace fathom::kernels {

// Of one operation, max|a - b| / max|b| of a row: FP32 sums in another order, or one step of BF16
// rounding (2^-8) where they fall on different sides.
constexpr double OpTolerance(DType dtype) { return dtype == DType::kF32 ? 5e-6 : 8e-3; }

// Of a whole model's logits against FP32 goldens, in the same measure, and the KL divergence.
constexpr double LogitTolerance(DType dtype) { return dtype == DType::kF32 ? 1e-4 : 2e-2; }
constexpr double LogitKlTolerance(DType dtype) { return dtype == DType::kF32 ? 1e-7 : 1e-3; }

}  // namespace fathom::kernels
