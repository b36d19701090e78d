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
FATHOM_INLINE __m128 Quarter(Vec v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

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
FATHOM_INLINE __m128 Quarter(Vec v) {
  return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
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

#endif

// The sums of four vectors.
FATHOM_INLINE __m128 Sum4(const Vec (&v)[4]) {
  return _mm_hadd_ps(_mm_hadd_ps(Quarter(v[0]), Quarter(v[1])),
                     _mm_hadd_ps(Quarter(v[2]), Quarter(v[3])));
}

// The first n <= kLanes elements; the rest reads as zero.
template <typename T>
FATHOM_INLINE Vec LoadSome(const T* p, int n) {
  if (n >= kLanes) return Load(p);
  T all[kLanes] = {};
  for (int i = 0; i < n; ++i) all[i] = p[i];
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
