#pragma once

// FP32 products of many rows by oneDNN, on the panels as our own kernels read them (see
// packed_panels.h): its blocked layout is the same bytes. It is called single-threaded, on one
// block of rows and all columns (its kernels want an output without gaps), from the threads of our
// pool; Debian's build would otherwise start an OpenMP team, whose spinning starves the network
// threads.
//
// Used where it is faster: with AVX-512. Its reduction order is its own, so the batch-invariant
// mode stays with our kernels.
//
// Thread safety: Multiply may be called from any thread of the pool.

#include <cstdint>
#include <memory>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/packed_panels.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cpu {

class OneDnnGemm {
 public:
  // The rows of one call. Fewer are left to our own kernels.
  static constexpr int32_t kRows = 64;

  explicit OneDnnGemm(Isa isa);
  ~OneDnnGemm();

  // Whether it is the better choice for full blocks of rows of this product.
  bool Wants(const LinearArgs& args, const PackedPanels& weight) const;

  // Rows [first_row, first_row + kRows). False when oneDNN has nothing for this product.
  bool Multiply(const LinearArgs& args, const PackedPanels& weight, int32_t first_row);

 private:
  class Cache;
  const std::unique_ptr<Cache> cache_;  // null: never wanted
};

}  // namespace fathom::kernels::cpu
