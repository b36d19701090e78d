#pragma once

// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel Random
// Numbers: As Easy as 1, 2, 3" (SC 2011). A pure function of key and counter, so that any device,
// in any order, draws the same numbers. Plain enough for nvcc.

#include <cstdint>

#ifdef __CUDACC__
#define FATHOM_HOST_DEVICE __host__ __device__
#else
#define FATHOM_HOST_DEVICE
#endif

namespace fathom::kernels {

struct Philox4x32 {
  uint32_t v[4];
};

FATHOM_HOST_DEVICE constexpr Philox4x32 Philox(Philox4x32 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53U} * counter.v[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57U} * counter.v[2];
    counter = {{static_cast<uint32_t>(p1 >> 32) ^ counter.v[1] ^ key0, static_cast<uint32_t>(p1),
                static_cast<uint32_t>(p0 >> 32) ^ counter.v[3] ^ key1, static_cast<uint32_t>(p0)}};
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return counter;
}

// The four draws [4 * draw_quad, 4 * draw_quad + 4) of one sampled token: draw i belongs to token
// id i of the vocabulary, whatever else is filtered away.
FATHOM_HOST_DEVICE constexpr Philox4x32 SamplingDraws(uint64_t seed, uint32_t choice,
                                                      uint32_t position, uint32_t draw_quad) {
  return Philox({{draw_quad, position, choice, 0}}, static_cast<uint32_t>(seed),
                static_cast<uint32_t>(seed >> 32));
}

}  // namespace fathom::kernels
