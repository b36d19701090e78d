#pragma once

// The reference operations over a storage type T (float or BFloat16). Only ref_backend.cc uses
// them.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/cpu/host_backend.h"
#include "kernels/cpu/kv_address.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cpu::ref {

template <typename T, typename Table>
void Embedding(const EmbeddingArgs& args) {
  auto* out = static_cast<T*>(args.out);
  const auto* table = static_cast<const Table*>(args.table);
  for (int32_t token = 0; token < args.num_tokens; ++token) {
    const Table* row = table + static_cast<int64_t>(EmbeddingId(args, token)) * args.hidden;
    for (int32_t i = 0; i < args.hidden; ++i) {
      StoreFloat(out + static_cast<int64_t>(token) * args.hidden + i, ToFloat(row[i]));
    }
  }
}

// One row; `out` may be `x`.
template <typename T>
void NormRow(T* out, const T* x, const float* weight, int32_t dim, float eps) {
  float sum = 0;
  for (int32_t i = 0; i < dim; ++i) sum += ToFloat(x[i]) * ToFloat(x[i]);
  const float inverse = 1.0F / std::sqrt(sum / static_cast<float>(dim) + eps);
  for (int32_t i = 0; i < dim; ++i) {
    StoreFloat(out + i, weight[i] * Rounded<T>(ToFloat(x[i]) * inverse));
  }
}

template <typename T>
void RmsNorm(const RmsNormArgs& args) {
  for (int32_t row = 0; row < args.rows; ++row) {
    const int64_t at = static_cast<int64_t>(row) * args.dim;
    const T* x = static_cast<const T*>(args.x) + at;
    if (args.residual != nullptr) {
      T* residual = static_cast<T*>(args.residual) + at;
      for (int32_t i = 0; i < args.dim; ++i) {
        StoreFloat(residual + i, ToFloat(residual[i]) + ToFloat(x[i]));
      }
      x = residual;
    }
    NormRow(static_cast<T*>(args.out) + at, x, args.weight, args.dim, args.eps);
  }
}

template <typename T>
void RotateHead(T* head, const float* cos_sin, int32_t half) {
  for (int32_t i = 0; i < half; ++i) {
    const float cosine = cos_sin[i];
    const float sine = cos_sin[half + i];
    const float a = ToFloat(head[i]);
    const float b = ToFloat(head[half + i]);
    StoreFloat(head + i, a * cosine - b * sine);
    StoreFloat(head + half + i, b * cosine + a * sine);
  }
}

template <typename T>
void RotaryKvWrite(const RotaryKvWriteArgs& args) {
  const KvCacheView& kv = args.kv;
  const int32_t dim = kv.head_dim;
  const int32_t num_heads = args.num_q_heads + 2 * kv.num_kv_heads;
  for (int32_t token = 0; token < args.num_tokens; ++token) {
    T* heads = static_cast<T*>(args.qkv) + static_cast<int64_t>(token) * num_heads * dim;
    const float* cos_sin = args.cos_sin + static_cast<int64_t>(token) * dim;
    for (int32_t h = 0; h < args.num_q_heads + kv.num_kv_heads; ++h) {
      T* head = heads + static_cast<int64_t>(h) * dim;
      const float* weight = h < args.num_q_heads ? args.q_norm_weight : args.k_norm_weight;
      if (weight != nullptr) NormRow(head, head, weight, dim, args.norm_eps);
      RotateHead(head, cos_sin, dim / 2);
    }
    for (int32_t h = 0; h < kv.num_kv_heads; ++h) {
      const KvRow<T> row = CacheRow<T>(kv, args.token_slots[token], args.kv_positions[token], h);
      const T* key = heads + static_cast<int64_t>(args.num_q_heads + h) * dim;
      const T* value = key + static_cast<int64_t>(kv.num_kv_heads) * dim;
      for (int32_t i = 0; i < dim; ++i) row.key[i] = key[i];
      for (int32_t i = 0; i < dim; ++i) row.value[i] = value[i];
    }
  }
}

// One query head over positions [first, last] of its sequence.
template <typename T>
void Attend(const PagedAttentionArgs& args, T* out, const T* query, int32_t slot, int32_t kv_head,
            int32_t first, int32_t last, std::vector<float>& scores) {
  const int32_t dim = args.kv.head_dim;
  scores.resize(static_cast<size_t>(last - first) + 1);
  float highest = -std::numeric_limits<float>::infinity();
  for (int32_t position = first; position <= last; ++position) {
    const T* key = CacheRow<T>(args.kv, slot, position, kv_head).key;
    float dot = 0;
    for (int32_t i = 0; i < dim; ++i) dot += ToFloat(query[i]) * ToFloat(key[i]);
    scores[position - first] = dot * args.scale;
    highest = std::fmax(highest, scores[position - first]);
  }
  float total = 0;
  for (float& score : scores) {
    score = std::exp(score - highest);
    total += score;
  }
  for (int32_t i = 0; i < dim; ++i) {
    float sum = 0;
    for (int32_t position = first; position <= last; ++position) {
      const T* value = CacheRow<T>(args.kv, slot, position, kv_head).value;
      sum += scores[position - first] * ToFloat(value[i]);
    }
    StoreFloat(out + i, sum / total);
  }
}

template <typename T>
void PagedAttention(const PagedAttentionArgs& args) {
  const int32_t dim = args.kv.head_dim;
  const int32_t num_heads = args.num_q_heads + 2 * args.kv.num_kv_heads;
  const int32_t group = args.num_q_heads / args.kv.num_kv_heads;
  std::vector<float> scores;
  for (int32_t s = 0; s < args.num_sequences; ++s) {
    const SequenceSpan& sequence = args.sequences[s];
    for (int32_t i = 0; i < sequence.query_len; ++i) {
      const int64_t token = sequence.first_token + i;
      const int32_t last = sequence.context_len + i;
      const int32_t first = args.window > 0 && last >= args.window ? last - args.window + 1 : 0;
      for (int32_t h = 0; h < args.num_q_heads; ++h) {
        T* out = static_cast<T*>(args.out) + (token * args.num_q_heads + h) * dim;
        const T* query = static_cast<const T*>(args.qkv) + (token * num_heads + h) * dim;
        Attend(args, out, query, sequence.slot, h / group, first, last, scores);
      }
    }
  }
}

template <typename T>
void SiluMul(const SiluMulArgs& args) {
  for (int32_t row = 0; row < args.rows; ++row) {
    T* out = static_cast<T*>(args.out) + static_cast<int64_t>(row) * args.dim;
    const T* gate = static_cast<const T*>(args.gate_up) + static_cast<int64_t>(row) * 2 * args.dim;
    const T* up = gate + args.dim;
    for (int32_t i = 0; i < args.dim; ++i) {
      const float g = ToFloat(gate[i]);
      const float silu = g / (1.0F + std::exp(-g));
      StoreFloat(out + i, Rounded<T>(silu) * ToFloat(up[i]));
    }
  }
}

template <typename X, typename W, typename Out>
void Linear(const LinearArgs& args, const W* weight, int32_t rows_w, int32_t cols) {
  for (int32_t row = 0; row < args.rows; ++row) {
    const X* x = static_cast<const X*>(args.x) + static_cast<int64_t>(row) * cols;
    Out* out = static_cast<Out*>(args.out) + static_cast<int64_t>(row) * rows_w;
    for (int32_t n = 0; n < rows_w; ++n) {
      const W* w = weight + static_cast<int64_t>(n) * cols;
      float sum = 0;
      for (int32_t k = 0; k < cols; ++k) sum += ToFloat(x[k]) * ToFloat(w[k]);
      StoreFloat(out + n, args.bias == nullptr ? sum : sum + args.bias[n]);
    }
  }
}

}  // namespace fathom::kernels::cpu::ref
