#pragma once

// Asynchronous products of the wide kernel: 64 rows of W against all tokens, both operands in
// shared memory with their depth along the rows (RowOperand). Between FenceProducts and
// CommitProducts (warpgroup.cuh).

#include "kernels/cuda/warpgroup.cuh"

namespace fathom::kernels::cuda {

// clang-format off
#define FATHOM_D0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FATHOM_D16 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FATHOM_FOUR(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define FATHOM_SIXTEEN(d, i) \
  FATHOM_FOUR(d, i), FATHOM_FOUR(d, i + 1), FATHOM_FOUR(d, i + 2), FATHOM_FOUR(d, i + 3)
#define FATHOM_MULTIPLY_32(type) \
  asm volatile( \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " {" \
      FATHOM_D0 \
      "}, %16, %17, 1, 1, 1, 0, 0;" \
      : FATHOM_SIXTEEN(d, 0) \
      : "l"(a), "l"(b))
#define FATHOM_MULTIPLY_64(type) \
  asm volatile( \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" \
      FATHOM_D0 ", " FATHOM_D16 \
      "}, %32, %33, 1, 1, 1, 0, 0;" \
      : FATHOM_SIXTEEN(d, 0), FATHOM_SIXTEEN(d, 4) \
      : "l"(a), "l"(b))
#define FATHOM_MULTIPLY(tokens) \
  if constexpr (kIsHalf<T>) { FATHOM_MULTIPLY_##tokens("f16"); } else { FATHOM_MULTIPLY_##tokens("bf16"); }
// clang-format on

// d [64, 8 kTiles] += A B^T, A [64, 16] and B [8 kTiles, 16].
template <typename T, int kTiles>
__device__ inline void MultiplyAddRows(float (&d)[kTiles][4], uint64_t a, uint64_t b) {
  static_assert(kTiles == 4 || kTiles == 8);
  if constexpr (kTiles == 4) {
    FATHOM_MULTIPLY(32);
  } else {
    FATHOM_MULTIPLY(64);
  }
}

#undef FATHOM_D0
#undef FATHOM_D16
#undef FATHOM_FOUR
#undef FATHOM_SIXTEEN
#undef FATHOM_MULTIPLY
#undef FATHOM_MULTIPLY_32
#undef FATHOM_MULTIPLY_64

}  // namespace fathom::kernels::cuda
