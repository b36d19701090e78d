#pragma once

// Paged attention with an online softmax (Milakov and Gimelshein, arXiv:1805.02867). Included only
// by the kernels_<isa>.cc files.
//
// A task walks its sequence's keys in tiles of kKeyTile positions that start at multiples of it. A
// row takes part in a tile with the positions it sees and skips tiles it sees nothing of, so its
// result depends on its own position alone: prefill, any chunking and decode agree bit for bit.

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

constexpr float kLowest = -3.402823466e38F;

template <typename T>
struct TilePointers {
  const T* keys[kKeyTile];
  const T* values[kKeyTile];
};

// Finds positions [begin, end), which lie in the tile that starts at `tile`. Entries are numbered
// from the tile's start, so that a position has the same lane whatever the task.
template <typename T>
FATHOM_INLINE void FindTile(const KvCacheView& kv, const AttentionTask& task, int tile, int begin,
                            int end, TilePointers<T>& out) {
  const int32_t* table = kv.block_tables + static_cast<int64_t>(task.sequence.slot) * kv.max_blocks;
  const int64_t head = static_cast<int64_t>(task.kv_head) * kv.block_tokens;
  int position = begin;
  while (position < end) {
    const int in_block = position % kv.block_tokens;
    const char* block =
        static_cast<const char*>(kv.arena) + table[position / kv.block_tokens] * kv.block_bytes;
    const int64_t row = (head + in_block) * kv.head_dim;
    const T* key = reinterpret_cast<const T*>(block + kv.layer_offset) + row;
    const T* value = reinterpret_cast<const T*>(block + kv.value_offset) + row;
    const int run =
        kv.block_tokens - in_block < end - position ? kv.block_tokens - in_block : end - position;
    for (int i = 0; i < run; ++i) {
      out.keys[position - tile + i] = key + static_cast<int64_t>(i) * kv.head_dim;
      out.values[position - tile + i] = value + static_cast<int64_t>(i) * kv.head_dim;
    }
    position += run;
  }
}

// Heads of whole vectors (kWhole) are read without looking at what is left.
template <bool kWhole, typename T>
FATHOM_INLINE Vec Get(const T* p, int left) {
  return kWhole ? Load(p) : LoadSome(p, left);
}

// Four dot products at once: their sums overlap, and reduce together.
template <bool kWhole, typename T>
FATHOM_INLINE void Dot4(const float* query, const T* const (&keys)[4], int dim, float scale,
                        float* scores) {
  Vec sums[4] = {Zero(), Zero(), Zero(), Zero()};
  for (int i = 0; i < dim; i += kLanes) {
    const Vec q = Get<kWhole>(query + i, dim - i);
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) sums[t] = Fma(q, Get<kWhole>(keys[t] + i, dim - i), sums[t]);
  }
  _mm_storeu_ps(scores, _mm_mul_ps(Sum4(sums), _mm_set1_ps(scale)));
}

// Scores of tokens [begin, end). The last few are computed beside copies of the last: a token's sum
// must not depend on its neighbours.
template <bool kWhole, typename T>
FATHOM_INLINE void Scores(const float* query, const T* const* keys, int begin, int end, int dim,
                          float scale, float* scores) {
  int t = begin;
  for (; t + 4 <= end; t += 4) {
    const T* const four[4] = {keys[t], keys[t + 1], keys[t + 2], keys[t + 3]};
    Dot4<kWhole>(query, four, dim, scale, scores + t);
  }
  if (t == end) return;
  const T* const last = keys[end - 1];
  const T* const four[4] = {keys[t], t + 1 < end ? keys[t + 1] : last,
                            t + 2 < end ? keys[t + 2] : last, last};
  float some[4];
  Dot4<kWhole>(query, four, dim, scale, some);
  for (int i = 0; t + i < end; ++i) scores[t + i] = some[i];
}

// sums += weights * values over tokens [begin, end), kVecs vectors of the head at a time.
template <bool kWhole, int kVecs, typename T>
FATHOM_INLINE void AddValues(const float* weights, const T* const* values, int begin, int end,
                             int at, int dim, float decay, float* sums) {
  Vec acc[kVecs];
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    acc[v] = Mul(Get<kWhole>(sums + at + v * kLanes, dim - at - v * kLanes), Set(decay));
  }
  for (int t = begin; t < end; ++t) {
    const Vec w = Set(weights[t]);
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const int i = at + v * kLanes;
      acc[v] = Fma(w, Get<kWhole>(values[t] + i, dim - i), acc[v]);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    StoreSome(sums + at + v * kLanes, acc[v], dim - at - v * kLanes);
  }
}

// One row over the tokens [begin, end) of a tile.
template <bool kWhole, typename T>
FATHOM_INLINE void UpdateRow(const T* const* keys, const T* const* values, int begin, int end,
                             int dim, float scale, int row, AttentionScratch& s) {
  const float* query = s.queries + static_cast<int64_t>(row) * dim;
  float* sums = s.sums + static_cast<int64_t>(row) * dim;
  // Positions that the row does not see weigh nothing.
  for (int t = 0; t < kKeyTile; ++t) s.weights[t] = kLowest;
  Scores<kWhole>(query, keys, begin, end, dim, scale, s.weights);

  Vec highest = Set(s.highest[row]);
  for (int i = 0; i < kKeyTile; i += kLanes) highest = Max(Load(s.weights + i), highest);
  const float top = Highest(highest);
  float decay[kLanes];
  Store(decay, Exp(Set(s.highest[row] - top)));
  Vec total = Zero();
  for (int i = 0; i < kKeyTile; i += kLanes) {
    const Vec w = Exp(Sub(Load(s.weights + i), Set(top)));
    Store(s.weights + i, w);
    total = Add(total, w);
  }
  s.highest[row] = top;
  s.totals[row] = s.totals[row] * decay[0] + Sum(total);
  int at = 0;
  for (; at + 4 * kLanes <= dim; at += 4 * kLanes) {
    AddValues<kWhole, 4>(s.weights, values, begin, end, at, dim, decay[0], sums);
  }
  for (; at < dim; at += kLanes) {
    AddValues<kWhole, 1>(s.weights, values, begin, end, at, dim, decay[0], sums);
  }
}

template <typename T>
FATHOM_INLINE void UpdateRows(const AttentionTask& task, const T* const* keys,
                              const T* const* values, int tile, int tile_end, int group,
                              AttentionScratch& s) {
  const PagedAttentionArgs& args = *task.args;
  for (int row = 0; row < task.num_rows; ++row) {
    const int last = task.sequence.context_len + (task.first_row + row) / group;
    const int first = args.window > 0 && last >= args.window ? last - args.window + 1 : 0;
    const int begin = first > tile ? first - tile : 0;
    const int end = (last + 1 < tile_end ? last + 1 : tile_end) - tile;
    if (begin >= end) continue;
    if (args.kv.head_dim % kLanes == 0) {
      UpdateRow<true>(keys, values, begin, end, args.kv.head_dim, args.scale, row, s);
    } else {
      UpdateRow<false>(keys, values, begin, end, args.kv.head_dim, args.scale, row, s);
    }
  }
}

// BF16 tiles that several rows share are widened once.
FATHOM_INLINE bool WidenTile(const TilePointers<Bf16>& tile, int begin, int end, int dim, int rows,
                             TilePointers<float>& wide, AttentionScratch& s) {
  constexpr int kWorthwhileRows = 4;
  if (rows < kWorthwhileRows) return false;
  for (int t = begin; t < end; ++t) {
    float* key = s.keys + static_cast<int64_t>(t) * dim;
    float* value = s.values + static_cast<int64_t>(t) * dim;
    for (int i = 0; i < dim; i += kLanes) {
      StoreSome(key + i, LoadSome(tile.keys[t] + i, dim - i), dim - i);
      StoreSome(value + i, LoadSome(tile.values[t] + i, dim - i), dim - i);
    }
    wide.keys[t] = key;
    wide.values[t] = value;
  }
  return true;
}
FATHOM_INLINE bool WidenTile(const TilePointers<float>&, int, int, int, int, TilePointers<float>&,
                             AttentionScratch&) {
  return false;
}

template <typename T>
FATHOM_INLINE T* RowOf(const AttentionTask& task, T* base, int num_heads, int group, int row) {
  const int64_t token = task.sequence.first_token + (task.first_row + row) / group;
  const int64_t head = task.kv_head * group + (task.first_row + row) % group;
  return base + (token * num_heads + head) * task.args->kv.head_dim;
}

template <typename T>
static void Attend(const AttentionTask& task, AttentionScratch& s) {
  const PagedAttentionArgs& args = *task.args;
  const KvCacheView& kv = args.kv;
  const int dim = kv.head_dim;
  const int group = args.num_q_heads / kv.num_kv_heads;
  const int num_heads = args.num_q_heads + 2 * kv.num_kv_heads;
  for (int row = 0; row < task.num_rows; ++row) {
    const T* query = RowOf(task, static_cast<const T*>(args.qkv), num_heads, group, row);
    for (int i = 0; i < dim; i += kLanes) {
      const int64_t at = static_cast<int64_t>(row) * dim + i;
      StoreSome(s.queries + at, LoadSome(query + i, dim - i), dim - i);
      StoreSome(s.sums + at, Zero(), dim - i);
    }
    s.highest[row] = kLowest;
    s.totals[row] = 0;
  }
  const int first_query = task.sequence.context_len + task.first_row / group;
  const int last_query = task.sequence.context_len + (task.first_row + task.num_rows - 1) / group;
  const int start =
      args.window > 0 && first_query >= args.window ? first_query - args.window + 1 : 0;
  for (int tile = start / kKeyTile * kKeyTile; tile <= last_query; tile += kKeyTile) {
    // The blocks of positions before `start` may be gone.
    const int begin = tile > start ? tile : start;
    const int end = tile + kKeyTile < last_query + 1 ? tile + kKeyTile : last_query + 1;
    TilePointers<T> found;
    TilePointers<float> wide;
    FindTile(kv, task, tile, begin, end, found);
    if (WidenTile(found, begin - tile, end - tile, dim, task.num_rows, wide, s)) {
      UpdateRows(task, wide.keys, wide.values, tile, end, group, s);
    } else {
      UpdateRows(task, found.keys, found.values, tile, end, group, s);
    }
  }
  for (int row = 0; row < task.num_rows; ++row) {
    T* out = RowOf(task, static_cast<T*>(args.out), args.num_q_heads, group, row);
    const Vec inverse = Set(1.0F / s.totals[row]);
    for (int i = 0; i < dim; i += kLanes) {
      const Vec sum = LoadSome(s.sums + static_cast<int64_t>(row) * dim + i, dim - i);
      StoreSome(out + i, Mul(sum, inverse), dim - i);
    }
  }
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
