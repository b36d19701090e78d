#pragma once

// One vector of floats, as wide as the including file's instruction set. Included only by the
// kernels_<isa>.cc files, which name their namespace in FATHOM_ISA.

#include <immintrin.h>
#include <stdint.h>

#define FATHOM_INLINE static inline __attribute__((always_inline))

namespace fathom::kernels::cpu::FATHOM_ISA {

struct Bf16 {
  uint16_t bits;
};

FATHOM_INLINE float Scalar(float v) { return v; }
FATHOM_INLINE float Scalar(Bf16 v) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(v.bits) << 16);
}

#if defined(__AVX512F__)

using Vec = __m512;
constexpr int kLanes = 16;

FATHOM_INLINE Vec Zero() { return _mm512_setzero_ps(); }
FATHOM_INLINE Vec Set(float v) { return _mm512_set1_ps(v); }
FATHOM_INLINE Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
FATHOM_INLINE Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
FATHOM_INLINE Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
FATHOM_INLINE Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
FATHOM_INLINE Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
FATHOM_INLINE Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
FATHOM_INLINE Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
FATHOM_INLINE Vec Round(Vec v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// a < b ? 0 : v
FATHOM_INLINE Vec ZeroIfLess(Vec a, Vec b, Vec v) {
  return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), _mm512_setzero_ps());
}
// v * 2^n, n being whole and in the range of normal exponents.
FATHOM_INLINE Vec ScaleByPowerOfTwo(Vec v, Vec n) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), exponent));
}
FATHOM_INLINE float Sum(Vec v) { return _mm512_reduce_add_ps(v); }
FATHOM_INLINE float Highest(Vec v) { return _mm512_reduce_max_ps(v); }

FATHOM_INLINE Vec Load(const float* p) { return _mm512_loadu_ps(p); }
FATHOM_INLINE Vec Load(const Bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
FATHOM_INLINE void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
// To nearest even; NaN becomes the quiet one.
#if defined(__AVX512BF16__)
FATHOM_INLINE void Store(Bf16* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
}
#else
FATHOM_INLINE void Store(Bf16* p, Vec v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i wide = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  wide = _mm512_mask_or_epi32(wide, nan, bits, _mm512_set1_epi32(0x400000));
  const __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(wide, 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
}
#endif

// Sixteen columns of a pair of BF16 rows, kept as 32-bit words.
using Pairs = __m512i;
FATHOM_INLINE Pairs LoadPairs(const Bf16* p) { return _mm512_loadu_si512(p); }
// The same two values in every word.
FATHOM_INLINE Pairs SetPair(const Bf16* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}
FATHOM_INLINE Vec Even(Pairs p) { return _mm512_castsi512_ps(_mm512_slli_epi32(p, 16)); }
FATHOM_INLINE Vec Odd(Pairs p) {
  return _mm512_castsi512_ps(_mm512_and_si512(p, _mm512_set1_epi32(-0x10000)));
}

// Columns of two BF16 rows, as pairs.
FATHOM_INLINE Vec Interleave(const Bf16* even, const Bf16* odd) {
  const __m512i low =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(Load(odd))));
}
// Lanes [begin, end) of `inside`, the others of `outside`.
FATHOM_INLINE Vec SelectLanes(Vec inside, Vec outside, int begin, int end) {
  const uint32_t below_end = end >= kLanes ? 0xFFFFU : end <= 0 ? 0 : (1U << end) - 1;
  const uint32_t below_begin = begin >= kLanes ? 0xFFFFU : begin <= 0 ? 0 : (1U << begin) - 1;
  return _mm512_mask_mov_ps(outside, static_cast<__mmask16>(below_end & ~below_begin), inside);
}
// 16 x 16 words: pairs, fours, then quarters of a vector change places.
FATHOM_INLINE void Transpose(Vec (&rows)[kLanes]) {
  Vec pairs[kLanes];
  Vec fours[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    const __m512d a = _mm512_castps_pd(pairs[i]);
    const __m512d b = _mm512_castps_pd(pairs[i + 1]);
    const __m512d c = _mm512_castps_pd(pairs[i + 2]);
    const __m512d d = _mm512_castps_pd(pairs[i + 3]);
    fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec low_even = _mm512_shuffle_f32x4(fours[i], fours[4 + i], 0x88);
    const Vec low_odd = _mm512_shuffle_f32x4(fours[i], fours[4 + i], 0xDD);
    const Vec high_even = _mm512_shuffle_f32x4(fours[8 + i], fours[12 + i], 0x88);
    const Vec high_odd = _mm512_shuffle_f32x4(fours[8 + i], fours[12 + i], 0xDD);
    rows[i] = _mm512_shuffle_f32x4(low_even, high_even, 0x88);
    rows[4 + i] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
    rows[8 + i] = _mm512_shuffle_f32x4(low_even, high_even, 0xDD);
    rows[12 + i] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xDD);
  }
}

#else

using Vec = __m256;
constexpr int kLanes = 8;

FATHOM_INLINE Vec Zero() { return _mm256_setzero_ps(); }
FATHOM_INLINE Vec Set(float v) { return _mm256_set1_ps(v); }
FATHOM_INLINE Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
FATHOM_INLINE Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
FATHOM_INLINE Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
FATHOM_INLINE Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
FATHOM_INLINE Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
FATHOM_INLINE Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
FATHOM_INLINE Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
FATHOM_INLINE Vec Round(Vec v) {
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FATHOM_INLINE Vec ZeroIfLess(Vec a, Vec b, Vec v) {
  return _mm256_andnot_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ), v);
}
FATHOM_INLINE Vec ScaleByPowerOfTwo(Vec v, Vec n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), exponent));
}
FATHOM_INLINE float Sum(Vec v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
FATHOM_INLINE float Highest(Vec v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}

FATHOM_INLINE Vec Load(const float* p) { return _mm256_loadu_ps(p); }
FATHOM_INLINE Vec Load(const Bf16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
FATHOM_INLINE void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
FATHOM_INLINE void Store(Bf16* p, Vec v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i wide = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  wide = _mm256_castps_si256(
      _mm256_blendv_ps(_mm256_castsi256_ps(wide), _mm256_castsi256_ps(quiet), nan));
  const __m256i high = _mm256_srli_epi32(wide, 16);
  const __m128i half =
      _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
}

using Pairs = __m256i;
FATHOM_INLINE Pairs LoadPairs(const Bf16* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
FATHOM_INLINE Vec Even(Pairs p) { return _mm256_castsi256_ps(_mm256_slli_epi32(p, 16)); }
FATHOM_INLINE Vec Odd(Pairs p) {
  return _mm256_castsi256_ps(_mm256_and_si256(p, _mm256_set1_epi32(-0x10000)));
}
FATHOM_INLINE Vec Interleave(const Bf16* even, const Bf16* odd) {
  const __m256i low =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(even)));
  return _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_castps_si256(Load(odd))));
}
FATHOM_INLINE Vec SelectLanes(Vec inside, Vec outside, int begin, int end) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i from = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1));
  const __m256i to = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane);
  return _mm256_blendv_ps(outside, inside, _mm256_castsi256_ps(_mm256_and_si256(from, to)));
}
// 8 x 8 words.
FATHOM_INLINE void Transpose(Vec (&rows)[kLanes]) {
  Vec fours[kLanes];
#pragma GCC unroll 2
  for (int i = 0; i < kLanes; i += 4) {
    const Vec a = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    const Vec b = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    const Vec c = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
    const Vec d = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
    fours[i] = _mm256_shuffle_ps(a, c, 0x44);
    fours[i + 1] = _mm256_shuffle_ps(a, c, 0xEE);
    fours[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    fours[i + 3] = _mm256_shuffle_ps(b, d, 0xEE);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x20);
    rows[4 + i] = _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x31);
  }
}

#endif

// The first n <= kLanes elements; the rest reads as zero.
template <typename T>
FATHOM_INLINE Vec LoadSome(const T* p, int n) {
  if (n >= kLanes) return Load(p);
  T all[kLanes] = {};
  for (int i = 0; i < n; ++i) all[i] = p[i];
  return Load(all);
}

// The first n <= kLanes columns of two BF16 rows, as pairs.
FATHOM_INLINE Vec Interleave(const Bf16* even, const Bf16* odd, int n) {
  if (n >= kLanes) return Interleave(even, odd);
  Bf16 all[2][kLanes] = {};
  for (int i = 0; i < n; ++i) all[0][i] = even[i];
  for (int i = 0; i < n; ++i) all[1][i] = odd[i];
  return Interleave(all[0], all[1]);
}

// The same of 32-bit words of any type.
FATHOM_INLINE Vec LoadWords(const void* p, int n) {
  if (n >= kLanes) return Load(static_cast<const float*>(p));
  float all[kLanes] = {};
  __builtin_memcpy(all, p, static_cast<size_t>(n) * sizeof(float));
  return Load(all);
}

template <typename T>
FATHOM_INLINE void StoreSome(T* p, Vec v, int n) {
  if (n >= kLanes) return Store(p, v);
  T all[kLanes];
  Store(all, v);
  for (int i = 0; i < n; ++i) p[i] = all[i];
}

// What is left of v after a store to T.
template <typename T>
FATHOM_INLINE Vec Rounded(Vec v) {
  T all[kLanes];
  Store(all, v);
  return Load(all);
}
template <>
inline __attribute__((always_inline)) Vec Rounded<float>(Vec v) {
  return v;
}

// e^x to about 1e-7 of its value: reduction to |r| <= ln 2 / 2 and a polynomial of degree 6 (the
// Cephes coefficients). 0 below the smallest normal result, as if infinitely small.
FATHOM_INLINE Vec Exp(Vec x) {
  const Vec lowest = Set(-87.0F);
  const Vec clamped = Max(lowest, Min(Set(88.0F), x));
  const Vec n = Round(Mul(clamped, Set(1.44269504088896341F)));
  Vec r = Fma(n, Set(-0.693359375F), clamped);
  r = Fma(n, Set(2.12194440e-4F), r);
  Vec p = Set(1.9875691500e-4F);
  p = Fma(p, r, Set(1.3981999507e-3F));
  p = Fma(p, r, Set(8.3334519073e-3F));
  p = Fma(p, r, Set(4.1665795894e-2F));
  p = Fma(p, r, Set(1.6666665459e-1F));
  p = Fma(p, r, Set(5.0000001201e-1F));
  p = Fma(Mul(p, r), r, Add(r, Set(1.0F)));
  return ZeroIfLess(x, lowest, ScaleByPowerOfTwo(p, n));
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
