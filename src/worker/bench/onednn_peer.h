#pragma once

// oneDNN's own matrix products at a model's shapes, called the best way it allows: weights in the
// layout it chooses, all threads in its own OpenMP team, one call for all rows. What our prefill is
// measured against. Thread safety: none.

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "worker/bench/work_count.h"

namespace fathom::worker {

class OneDnnPeer {
 public:
  // `dtype`: of rows, weights and products, kF32 or kBF16; the library has BF16 products only where
  // there is AVX-512, elsewhere its FP32 ones take their place.
  OneDnnPeer(int32_t threads, DType dtype);
  ~OneDnnPeer();
  // What it multiplies in.
  DType dtype() const { return dtype_; }

  // Multiplies `rows` rows with each of `matrices` once; additions and multiplications a second.
  // The first call for a shape makes its primitive and does not count it.
  absl::StatusOr<double> FlopPerSecond(std::span<const MatrixShape> matrices, int64_t rows);

 private:
  class Product;
  class Impl;
  const DType dtype_;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::worker
