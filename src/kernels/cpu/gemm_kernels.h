#pragma once

// Products of a few or many rows with one packed panel. Included only by the kernels_<isa>.cc
// files.

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

constexpr int kPanelVecs = kPanelCols / kLanes;

// Many rows walk a panel in stretches of k that stay in the first-level cache. The sums wait in
// between, so that they are the same as those of one long walk.
constexpr int kLineBytes = 64;
constexpr int kStretch = 128;
constexpr int kMaxDirectRows = 6;

// While a group of rows is multiplied with a stretch, its share of the next stretch comes from
// memory: so many cache lines after every kAheadStep of k.
constexpr int kAheadStep = 16;
struct Ahead {
  const char* at = nullptr;
  int lines = 0;
};

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
  static constexpr int kValueBytes = 4;
  template <int kRows, int kVecs>
  FATHOM_INLINE void Multiply(const GemmTile& t, int row, int vec, int begin, int end,
                              Vec (&acc)[kRows][kVecs]) {
    const float* a = static_cast<const float*>(t.a) + row * t.lda;
    const float* panel = static_cast<const float*>(t.panel) + vec * kLanes;
    for (int k = begin; k < end; ++k) {
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
  static constexpr int kValueBytes = 2;
  template <int kRows, int kVecs>
  FATHOM_INLINE void Multiply(const GemmTile& t, int row, int vec, int begin, int end,
                              Vec (&acc)[kRows][kVecs]) {
    const float* a = static_cast<const float*>(t.a) + row * t.lda;
    const Bf16* panel = static_cast<const Bf16*>(t.panel) + 2 * vec * kLanes;
    int k = begin;
    for (; k + 1 < end; k += 2) {
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
    if (k < end) {
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
// Rows in BF16 as well: one instruction multiplies two values of k and sums in FP32.
struct Bf16DotPanel {
  static constexpr int kValueBytes = 2;
  template <int kRows, int kVecs>
  FATHOM_INLINE void Multiply(const GemmTile& t, int row, int vec, int begin, int end,
                              Vec (&acc)[kRows][kVecs]) {
    const auto* a = static_cast<const Bf16*>(t.a) + row * t.lda;
    const Bf16* panel = static_cast<const Bf16*>(t.panel) + 2 * vec * kLanes;
    int k = begin;
    for (; k + 1 < end; k += 2) {
      __m512bh x[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) x[r] = (__m512bh)SetPair(a + r * t.lda + k);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const auto w =
            (__m512bh)LoadPairs(panel + static_cast<int64_t>(k) * kPanelCols + 2 * v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w, x[r]);
      }
    }
    if (k < end) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const auto w =
            (__m512bh)LoadPairs(panel + static_cast<int64_t>(k) * kPanelCols + 2 * v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const auto x = (__m512bh)_mm512_set1_epi32(a[r * t.lda + k].bits);
          acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w, x);
        }
      }
    }
  }
};
#endif

// One tile over k in [begin, end). The sums start from `sums` unless begin is 0, and go there
// unless end is the last k.
template <typename Panel, int kRows, int kVecs>
FATHOM_INLINE void Micro(const GemmTile& t, int row, int begin, int end, float* sums, Ahead ahead) {
  for (int vec = 0; vec < kPanelVecs && vec * kLanes < t.cols; vec += kVecs) {
    float* waiting = sums + row * kPanelCols + vec * kLanes;
    Vec acc[kRows][kVecs];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        acc[r][v] = begin == 0 ? Zero() : Load(waiting + r * kPanelCols + v * kLanes);
      }
    }
    const int step = ahead.lines > 0 ? kAheadStep : end - begin;
    for (int k = begin; k < end; k += step) {
      for (int i = 0; i < ahead.lines; ++i, ahead.at += kLineBytes) {
        _mm_prefetch(ahead.at, _MM_HINT_T1);
      }
      Panel::template Multiply<kRows, kVecs>(t, row, vec, k, k + step < end ? k + step : end, acc);
    }
    ahead.lines = 0;
    if (end == t.k) {
      StoreTile<kRows, kVecs>(t, row, vec, acc);
      continue;
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) Store(waiting + r * kPanelCols + v * kLanes, acc[r][v]);
    }
  }
}

// Calls fn<kRows, kVecs>(row) for groups of at most six rows: they fill the registers, 6 x 4 sums
// of 16 lanes with 32 registers, 6 x 2 of 8 with 16. Fewer rows take more columns at a time, so
// that enough sums are in flight to hide the latency.
template <typename Fn>
FATHOM_INLINE void ForRowGroups(int rows, const Fn& fn) {
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
  for (; row + 6 <= rows; row += 6) fn.template operator()<6, kMany>(row);
  switch (rows - row) {
    case 5:
      return fn.template operator()<5, kMany>(row);
    case 4:
      return fn.template operator()<4, kMany>(row);
    case 3:
      return fn.template operator()<3, kMany>(row);
    case 2:
      return fn.template operator()<2, kTwo>(row);
    case 1:
      return fn.template operator()<1, kOne>(row);
    default:
      return;
  }
}

template <typename Panel>
FATHOM_INLINE void GemmStretch(const GemmTile& t, int begin, int end, float* sums) {
  Ahead ahead;
  const int groups = (t.rows + 5) / 6;
  const int steps = (end - begin + kAheadStep - 1) / kAheadStep;
  constexpr int kRowBytes = kPanelCols * Panel::kValueBytes;  // of one k
  if (t.from_memory && groups > 1) {
    ahead.at = static_cast<const char*>(t.panel) + static_cast<int64_t>(end) * kRowBytes;
    const int shares = groups * steps;
    ahead.lines = ((end - begin) * kRowBytes / kLineBytes + shares - 1) / shares;
  }
  ForRowGroups(
      t.rows, [&]<int kRows, int kVecs>(int row) __attribute__((always_inline)) {
        Micro<Panel, kRows, kVecs>(t, row, begin, end, sums, ahead);
        ahead.at += static_cast<int64_t>(ahead.lines) * steps * kLineBytes;
      });
}

// Few rows walk a panel in one go: they are bound by memory, which the processor itself prefetches
// well along one stream.
template <typename Panel>
FATHOM_INLINE void Gemm(const GemmTile& t) {
  const int stretch = t.rows <= kMaxDirectRows ? t.k : kStretch;
  float sums[kRowBlock * kPanelCols];
  for (int begin = 0; begin < t.k; begin += stretch) {
    GemmStretch<Panel>(t, begin, begin + stretch < t.k ? begin + stretch : t.k, sums);
  }
}

static void GemmF32(const GemmTile& t) { Gemm<F32Panel>(t); }
static void GemmBf16Panel(const GemmTile& t) { Gemm<Bf16Panel>(t); }
#if defined(__AVX512BF16__)
static void GemmBf16Dot(const GemmTile& t) { Gemm<Bf16DotPanel>(t); }
#endif

}  // namespace fathom::kernels::cpu::FATHOM_ISA
