#pragma once

// Reads memory and does nothing with it: what memory can give at most. Included only by the
// kernels_<isa>.cc files.

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

// `bytes` is a multiple of 256. The sum is returned so that nothing is optimised away.
static float ReadStream(const void* data, int64_t bytes) {
  const auto* p = static_cast<const float*>(data);
  constexpr int kStreams = 4;
  Vec sums[kStreams] = {Zero(), Zero(), Zero(), Zero()};
  for (int64_t i = 0; i < bytes / 4; i += int64_t{kStreams} * kLanes) {
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) sums[s] = Max(sums[s], Load(p + i + s * kLanes));
  }
  return Highest(Max(Max(sums[0], sums[1]), Max(sums[2], sums[3])));
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
