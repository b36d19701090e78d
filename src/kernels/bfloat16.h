#pragma once

// BF16 storage: the upper half of an FP32. Arithmetic is done in FP32; storing rounds to nearest
// even, and NaN stays NaN. Plain enough for nvcc.

#include <cstdint>
#include <cstring>

namespace fathom {

struct BFloat16 {
  uint16_t bits;
};

inline float ToFloat(float v) { return v; }

inline float ToFloat(BFloat16 v) {
  const uint32_t wide = static_cast<uint32_t>(v.bits) << 16;
  float out;
  std::memcpy(&out, &wide, sizeof(out));
  return out;
}

inline BFloat16 ToBFloat16(float v) {
  uint32_t wide;
  std::memcpy(&wide, &v, sizeof(wide));
  if ((wide & 0x7FFFFFFFU) > 0x7F800000U) {
    return {static_cast<uint16_t>((wide >> 16) | 0x40U)};  // quiet NaN
  }
  wide += 0x7FFFU + ((wide >> 16) & 1U);
  return {static_cast<uint16_t>(wide >> 16)};
}

inline void StoreFloat(float* out, float v) { *out = v; }
inline void StoreFloat(BFloat16* out, float v) { *out = ToBFloat16(v); }

// What is left of `v` after a store to T.
template <typename T>
float Rounded(float v);
template <>
inline float Rounded<float>(float v) {
  return v;
}
template <>
inline float Rounded<BFloat16>(float v) {
  return ToFloat(ToBFloat16(v));
}

// IEEE half, for checkpoints alone: nothing computes in it on the CPU.
inline float HalfToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000U) << 16;
  uint32_t exponent = (h >> 10) & 0x1FU;
  uint32_t mantissa = h & 0x3FFU;
  uint32_t wide;
  if (exponent == 0x1FU) {
    wide = sign | 0x7F800000U | (mantissa << 13);
  } else if (exponent != 0) {
    wide = sign | ((exponent + 112U) << 23) | (mantissa << 13);
  } else if (mantissa == 0) {
    wide = sign;
  } else {
    exponent = 113;
    while ((mantissa & 0x400U) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    wide = sign | (exponent << 23) | ((mantissa & 0x3FFU) << 13);
  }
  float out;
  std::memcpy(&out, &wide, sizeof(out));
  return out;
}

}  // namespace fathom
