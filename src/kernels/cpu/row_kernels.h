#pragma once

// Operations on one row of activations. Included only by the kernels_<isa>.cc files.

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

static void ToFloat(float* out, const void* bf16, int64_t count) {
  const auto* in = static_cast<const Bf16*>(bf16);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int left = static_cast<int>(count - i < kLanes ? count - i : kLanes);
    StoreSome(out + i, LoadSome(in + i, left), left);
  }
}

template <typename T>
FATHOM_INLINE void NormRow(T* out, const T* x, const float* weight, int dim, float eps) {
  Vec squares = Zero();
  for (int i = 0; i < dim; i += kLanes) {
    const Vec v = LoadSome(x + i, dim - i);
    squares = Fma(v, v, squares);
  }
  const float mean = Sum(squares) / static_cast<float>(dim);
  const Vec inverse = Set(1.0F / __builtin_sqrtf(mean + eps));
  for (int i = 0; i < dim; i += kLanes) {
    const Vec v = Rounded<T>(Mul(LoadSome(x + i, dim - i), inverse));
    StoreSome(out + i, Mul(LoadSome(weight + i, dim - i), v), dim - i);
  }
}

template <typename T>
static void RmsNorm(void* out, const void* x, void* residual, const float* weight, int32_t dim,
                    float eps) {
  const T* row = static_cast<const T*>(x);
  if (residual != nullptr) {
    T* sum = static_cast<T*>(residual);
    for (int i = 0; i < dim; i += kLanes) {
      StoreSome(sum + i, Add(LoadSome(sum + i, dim - i), LoadSome(row + i, dim - i)), dim - i);
    }
    row = sum;
  }
  NormRow(static_cast<T*>(out), row, weight, dim, eps);
}

template <typename T>
static void RotateHeads(void* heads, int32_t num_heads, int32_t head_dim, const float* cos_sin,
                        const float* weight, float eps) {
  const int half = head_dim / 2;
  for (int h = 0; h < num_heads; ++h) {
    T* head = static_cast<T*>(heads) + static_cast<int64_t>(h) * head_dim;
    if (weight != nullptr) NormRow(head, head, weight, head_dim, eps);
    for (int i = 0; i < half; i += kLanes) {
      const int left = half - i;
      const Vec cosine = LoadSome(cos_sin + i, left);
      const Vec sine = LoadSome(cos_sin + half + i, left);
      const Vec a = LoadSome(head + i, left);
      const Vec b = LoadSome(head + half + i, left);
      StoreSome(head + i, Sub(Mul(a, cosine), Mul(b, sine)), left);
      StoreSome(head + half + i, Add(Mul(b, cosine), Mul(a, sine)), left);
    }
  }
}

template <typename T>
static void SiluMul(void* out, const void* gate, const void* up, int32_t dim) {
  for (int i = 0; i < dim; i += kLanes) {
    const int left = dim - i;
    const Vec g = LoadSome(static_cast<const T*>(gate) + i, left);
    const Vec silu = Div(g, Add(Set(1.0F), Exp(Sub(Zero(), g))));
    const Vec u = LoadSome(static_cast<const T*>(up) + i, left);
    StoreSome(static_cast<T*>(out) + i, Mul(Rounded<T>(silu), u), left);
  }
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
