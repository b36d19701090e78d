#pragma once

// Products of a few or many rows with one packed panel. Included only by the kernels_<isa>.cc
// files.

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

constexpr int kPanelVecs = kPanelCols / kLanes;

template <int kRows, int kVecs>
FATHOM_INLINE void StoreTile(const GemmTile& t, int row, int vec, const Vec (&acc)[kRows][kVecs]) {
#pragma GCC unroll 8
  for (int v = 0; v < kVecs; ++v) {
    const int col = (vec + v) * kLanes;
    const int left = t.cols - col;
    if (left <= 0) return;
    const Vec bias = t.bias == nullptr ? Zero() : LoadSome(t.bias + col, left);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec value = t.bias == nullptr ? acc[r][v] : Add(acc[r][v], bias);
      const int64_t at = (row + r) * t.ldc + col;
      if (t.c_is_bf16) {
        StoreSome(static_cast<Bf16*>(t.c) + at, value, left);
      } else {
        StoreSome(static_cast<float*>(t.c) + at, value, left);
      }
    }
  }
}

struct F32Panel {
  template <int kRows, int kVecs>
  FATHOM_INLINE void Multiply(const GemmTile& t, int row, int vec, Vec (&acc)[kRows][kVecs]) {
    const float* a = static_cast<const float*>(t.a) + row * t.lda;
    const float* panel = static_cast<const float*>(t.panel) + vec * kLanes;
    for (int k = 0; k < t.k; ++k) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const Vec w = Load(panel + static_cast<int64_t>(k) * kPanelCols + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) acc[r][v] = Fma(Set(a[r * t.lda + k]), w, acc[r][v]);
      }
    }
  }
};

struct Bf16Panel {
  template <int kRows, int kVecs>
  FATHOM_INLINE void Multiply(const GemmTile& t, int row, int vec, Vec (&acc)[kRows][kVecs]) {
    const float* a = static_cast<const float*>(t.a) + row * t.lda;
    const Bf16* panel = static_cast<const Bf16*>(t.panel) + 2 * vec * kLanes;
    int k = 0;
    for (; k + 1 < t.k; k += 2) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const Pairs pairs =
            LoadPairs(panel + static_cast<int64_t>(k) * kPanelCols + 2 * v * kLanes);
        const Vec even = Even(pairs);
        const Vec odd = Odd(pairs);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          acc[r][v] = Fma(Set(a[r * t.lda + k]), even, acc[r][v]);
          acc[r][v] = Fma(Set(a[r * t.lda + k + 1]), odd, acc[r][v]);
        }
      }
    }
    if (k < t.k) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const Vec even =
            Even(LoadPairs(panel + static_cast<int64_t>(k) * kPanelCols + 2 * v * kLanes));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          acc[r][v] = Fma(Set(a[r * t.lda + k]), even, acc[r][v]);
        }
      }
    }
  }
};

#if defined(__AVX512BF16__)
struct Bf16Pairs {
  template <int kRows, int kVecs>
  FATHOM_INLINE void Multiply(const GemmTile& t, int row, int vec, Vec (&acc)[kRows][kVecs]) {
    const Bf16* a = static_cast<const Bf16*>(t.a) + row * t.lda;
    const Bf16* panel = static_cast<const Bf16*>(t.panel) + 2 * vec * kLanes;
    int k = 0;
    for (; k + 1 < t.k; k += 2) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const Pairs w = LoadPairs(panel + static_cast<int64_t>(k) * kPanelCols + 2 * v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          int32_t pair;
          __builtin_memcpy(&pair, a + r * t.lda + k, sizeof(pair));
          acc[r][v] = Dot(acc[r][v], pair, w);
        }
      }
    }
    if (k < t.k) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const Pairs w = LoadPairs(panel + static_cast<int64_t>(k) * kPanelCols + 2 * v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) acc[r][v] = Dot(acc[r][v], a[r * t.lda + k].bits, w);
      }
    }
  }

  FATHOM_INLINE Vec Dot(Vec acc, int32_t pair, Pairs w) {
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
  }
};
#endif

template <typename Panel, int kRows, int kVecs>
FATHOM_INLINE void Micro(const GemmTile& t, int row) {
  for (int vec = 0; vec < kPanelVecs && vec * kLanes < t.cols; vec += kVecs) {
    Vec acc[kRows][kVecs];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) acc[r][v] = Zero();
    }
    Panel::template Multiply<kRows, kVecs>(t, row, vec, acc);
    StoreTile<kRows, kVecs>(t, row, vec, acc);
  }
}

// Six rows fill the registers: 6 x 4 sums of 16 lanes with 32 registers, 6 x 2 of 8 with 16. Fewer
// rows take more columns at a time, so that enough sums are in flight to hide the latency.
template <typename Panel>
FATHOM_INLINE void Gemm(const GemmTile& t) {
#if defined(__AVX512F__)
  constexpr int kOne = 4;
  constexpr int kTwo = 4;
  constexpr int kMany = 4;
#else
  constexpr int kOne = 8;
  constexpr int kTwo = 4;
  constexpr int kMany = 2;
#endif
  int row = 0;
  for (; row + 6 <= t.rows; row += 6) Micro<Panel, 6, kMany>(t, row);
  switch (t.rows - row) {
    case 5:
      return Micro<Panel, 5, kMany>(t, row);
    case 4:
      return Micro<Panel, 4, kMany>(t, row);
    case 3:
      return Micro<Panel, 3, kMany>(t, row);
    case 2:
      return Micro<Panel, 2, kTwo>(t, row);
    case 1:
      return Micro<Panel, 1, kOne>(t, row);
    default:
      return;
  }
}

static void GemmF32(const GemmTile& t) { Gemm<F32Panel>(t); }
static void GemmBf16Panel(const GemmTile& t) { Gemm<Bf16Panel>(t); }
#if defined(__AVX512BF16__)
static void GemmBf16Pairs(const GemmTile& t) { Gemm<Bf16Pairs>(t); }
#endif

}  // namespace fathom::kernels::cpu::FATHOM_ISA
