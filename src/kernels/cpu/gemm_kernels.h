#pragma once

// Products of a few or many rows with one packed panel. Included only by the kernels_<isa>.cc
// files.

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

constexpr int kPanelVecs = kPanelCols / kLanes;

// Most rows walk a panel in stretches of k that stay in the first-level cache. The sums wait in
// between, so that they are the same as those of one long walk.
constexpr int kLineBytes = 64;
constexpr int kStretch = 128;

// While a stretch is multiplied, the next one comes from memory: so many cache lines after every
// kAheadStep of k.
constexpr int kAheadStep = 16;
struct Ahead {
  const char* at = nullptr;
  int lines = 0;
};

// sum += a * b. With 16 registers GCC 12 chooses forms of the instruction that overwrite a factor,
// and then moves sums to memory and back.
FATHOM_INLINE void AddProduct(Vec& sum, Vec a, Vec b) {
#if defined(__AVX512F__)
  sum = Fma(a, b, sum);
#else
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#endif
}

// acc += one value of every row, rows lda apart, times a row of the panel.
template <int kRows, int kVecs, typename LoadWeight>
FATHOM_INLINE void AddRow(const float* a, int64_t lda, const LoadWeight& weight,
                          Vec (&acc)[kRows][kVecs]) {
  if constexpr (kRows == 1) {  // many columns: their weights do not fit beside the sums
    const Vec x = Set(*a);
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) AddProduct(acc[0][v], x, weight(v));
    return;
  }
  Vec w[kVecs];
#pragma GCC unroll 8
  for (int v = 0; v < kVecs; ++v) w[v] = weight(v);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const Vec x = Set(a[r * lda]);
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) AddProduct(acc[r][v], x, w[v]);
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
      const float* at = panel + static_cast<int64_t>(k) * kPanelCols;
      AddRow(
          a + k, t.lda, [at](int v) { return Load(at + v * kLanes); }, acc);
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
      const Bf16* at = panel + static_cast<int64_t>(k) * kPanelCols;
      AddRow(
          a + k, t.lda, [at](int v) { return Even(LoadPairs(at + 2 * v * kLanes)); }, acc);
      AddRow(
          a + k + 1, t.lda, [at](int v) { return Odd(LoadPairs(at + 2 * v * kLanes)); }, acc);
    }
    if (k < end) {
      const Bf16* at = panel + static_cast<int64_t>(k) * kPanelCols;
      AddRow(
          a + k, t.lda, [at](int v) { return Even(LoadPairs(at + 2 * v * kLanes)); }, acc);
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

// sums[row][col] += rows [row, row + kRows) times kVecs vectors of the panel, over k in
// [begin, end). A function of its own: among other code GCC 12 has too few registers for the sums.
template <typename Panel, int kRows, int kVecs>
__attribute__((noinline)) static void AddTile(const GemmTile& t, int row, int vec, int begin,
                                              int end, float* sums, int64_t stride, Ahead ahead) {
  float* at = sums + row * stride + vec * kLanes;
  Vec acc[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) acc[r][v] = Load(at + r * stride + v * kLanes);
  }
  const int step = ahead.lines > 0 ? kAheadStep : end - begin;
  for (int k = begin; k < end; k += step) {
    for (int i = 0; i < ahead.lines; ++i, ahead.at += kLineBytes) {
      _mm_prefetch(ahead.at, _MM_HINT_T1);
    }
    Panel::template Multiply<kRows, kVecs>(t, row, vec, k, k + step < end ? k + step : end, acc);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) Store(at + r * stride + v * kLanes, acc[r][v]);
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
FATHOM_INLINE void AddStretch(const GemmTile& t, int begin, int end, float* sums, int64_t stride,
                              Ahead ahead) {
  ForRowGroups(
      t.rows, [&]<int kRows, int kVecs>(int row) __attribute__((always_inline)) {
        for (int vec = 0; vec < kPanelVecs && vec * kLanes < t.cols; vec += kVecs) {
          AddTile<Panel, kRows, kVecs>(t, row, vec, begin, end, sums, stride, ahead);
          ahead.at += static_cast<int64_t>(ahead.lines) * (kStretch / kAheadStep) * kLineBytes;
        }
      });
}

FATHOM_INLINE void StoreSums(const GemmTile& t, const float* sums) {
  for (int row = 0; row < t.rows; ++row, sums += kPanelCols) {
    for (int col = 0; col < t.cols; col += kLanes) {
      const int left = t.cols - col;
      Vec value = Load(sums + col);
      if (t.bias != nullptr) value = Add(value, LoadSome(t.bias + col, left));
      const int64_t at = row * t.ldc + col;
      if (t.c_is_bf16) {
        StoreSome(static_cast<Bf16*>(t.c) + at, value, left);
      } else {
        StoreSome(static_cast<float*>(t.c) + at, value, left);
      }
    }
  }
}

// Rows that take a panel in one pass do so over all of k: they are bound by memory, which the
// processor itself prefetches well along one stream.
template <typename Panel>
FATHOM_INLINE void Gemm(const GemmTile& t) {
  constexpr int kStretchLines = kStretch * kPanelCols * Panel::kValueBytes / kLineBytes;
  int passes = 0;
  ForRowGroups(t.rows, [&]<int kRows, int kVecs>(int) { passes += kPanelVecs / kVecs; });
  const int stretch = passes == 1 ? t.k : kStretch;
  Ahead ahead;
  if (t.from_memory && passes > 1) {
    const int shares = passes * (kStretch / kAheadStep);
    ahead.lines = (kStretchLines + shares - 1) / shares;
  }
  float sums[kRowBlock * kPanelCols];
  for (int i = 0; i < t.rows * kPanelCols; i += kLanes) Store(sums + i, Zero());
  for (int begin = 0; begin < t.k; begin += stretch) {
    const int end = begin + stretch < t.k ? begin + stretch : t.k;
    ahead.at = static_cast<const char*>(t.panel) +
               static_cast<int64_t>(end) * kPanelCols * Panel::kValueBytes;
    AddStretch<Panel>(t, begin, end, sums, kPanelCols, ahead);
  }
  StoreSums(t, sums);
}

static void GemmF32(const GemmTile& t) { Gemm<F32Panel>(t); }
static void GemmBf16Panel(const GemmTile& t) { Gemm<Bf16Panel>(t); }
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
static void GemmBf16Dot(const GemmTile& t) { Gemm<Bf16DotPanel>(t); }
#endif

}  // namespace fathom::kernels::cpu::FATHOM_ISA
