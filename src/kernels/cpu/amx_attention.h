#pragma once

// Attention over BF16 keys and values on AMX; the walk over tiles of keys is that of
// attention_kernels.h. Included only by kernels_amx.cc.
//
// Scores are computed transposed, keys * queries^T: keys need no packing, queries are packed once a
// task, and one vector holds the scores of one key for 16 query rows, so that the softmax needs no
// sum across a vector. What multiplies the values are weights rounded to BF16; their totals are of
// the weights before.

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

static_assert(kLanes == kTileRows && kKeyTile % kTileDepth == 0 && kQueryRows == 3 * kTileRows);

// For every key of a tile the rows of the task that see it: [begin, end).
struct Seen {
  bool all = false;  // by all rows; then the rest is not set
  int begin[kKeyTile];
  int end[kKeyTile];
};

// Keys [begin, end) of the tile at position `tile` are there.
FATHOM_INLINE void FindSeen(const AttentionTask& task, int tile, int begin, int end, Seen& seen) {
  const int group = GroupOf(*task.args);
  const int window = task.args->window;
  // Row r is the query at context_len + (first_row + r) / group.
  const auto first_row_at = [&](int position) {
    return (position - task.sequence.context_len) * group - task.first_row;
  };
  const auto end_of = [&](int key) {
    return window > 0 ? first_row_at(tile + key + window) : kQueryRows;
  };
  seen.all = begin == 0 && end == kKeyTile && first_row_at(tile + kKeyTile - 1) <= 0 &&
             end_of(0) >= task.num_rows;
  if (seen.all) return;
  for (int key = 0; key < kKeyTile; ++key) {
    const bool there = key >= begin && key < end;
    seen.begin[key] = there ? first_row_at(tile + key) : 0;
    seen.end[key] = there ? end_of(key) : 0;
  }
}

FATHOM_INLINE int PaddedDepth(int dim) { return (dim + kTileDepth - 1) / kTileDepth * kTileDepth; }

// out[token][depth], padded with zeros, of tokens [begin, end).
FATHOM_INLINE void CopyKeys(const Bf16* const* keys, int begin, int end, int dim,
                            const Bf16* const* next, float* out) {
  const int words = dim / 2;
  const int stride = PaddedDepth(dim) / 2;
  for (int token = begin; token < end; ++token) {
    FetchRow(next[token], dim);
    for (int i = 0; i < stride; i += kLanes) {
      Store(out + token * stride + i, LoadWords(keys[token] + 2 * i, words - i));
    }
  }
}

// 2^x for x <= 0, at least 2^-125, to 4e-6 of its value; the coefficients are fitted so that 2^0 is
// 1.
FATHOM_INLINE Vec PowerOfTwo(Vec x) {
  const Vec clamped = Max(Set(-125.0F), x);
  const Vec n = Round(clamped);
  const Vec f = Sub(clamped, n);
  Vec p = Fma(f, Set(9.7829126e-3F), Set(5.5976884e-2F));
  p = Fma(p, f, Set(0.24020711F));
  p = Fma(p, f, Set(0.69311360F));
  return _mm512_scalef_ps(Fma(p, f, Set(1.0F)), n);
}

// Rounded to BF16, ties away from zero. A NaN that comes from BF16 values stays one.
FATHOM_INLINE Vec RoundPairs(Vec even, Vec odd) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
  const __m512i high = _mm512_add_epi32(_mm512_castps_si512(odd), half);
  return _mm512_castsi512_ps(_mm512_mask_blend_epi16(0xAAAAAAAA, low, high));
}

// From the scores of rows [row, row + 16) for keys [begin, end), multiples of 32, to weights.
template <bool kAllSeen>
FATHOM_INLINE void WeighRows(int row, int begin, int end, const Seen& seen, float scale,
                             AttentionScratch& s) {
  constexpr float kLog2E = 1.44269504088896341F;
  constexpr int kChains = 4;
  const Vec factor = Set(scale * kLog2E);
  const float* scores = s.weights + row;
  const auto select = [&](Vec inside, Vec outside, int key) __attribute__((always_inline)) {
    if constexpr (kAllSeen) return inside;
    return SelectLanes(inside, outside, seen.begin[key] - row, seen.end[key] - row);
  };
  const Vec before = Load(s.highest + row);
  Vec highest[kChains] = {before, before, before, before};
  for (int key = begin; key < end; key += kChains) {
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      const Vec score = Mul(Load(scores + (key + i) * kQueryRows), factor);
      highest[i] = Max(select(score, Set(kLowest), key + i), highest[i]);
    }
  }
  const Vec top = Max(Max(highest[0], highest[1]), Max(highest[2], highest[3]));
  const Vec decay = PowerOfTwo(Sub(before, top));
  const auto weigh = [&](int key) __attribute__((always_inline)) {
    const Vec score = Mul(Load(scores + key * kQueryRows), factor);
    return select(PowerOfTwo(Sub(score, top)), Zero(), key);
  };
  Vec evens = Zero();
  Vec odds = Zero();
  for (int group = begin; group < end; group += kTileDepth) {
    Vec words[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      const Vec even = weigh(group + 2 * i);
      const Vec odd = weigh(group + 2 * i + 1);
      evens = Add(evens, even);
      odds = Add(odds, odd);
      words[i] = RoundPairs(even, odd);
    }
    Transpose(words);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) Store(s.pairs + ((row + i) * kKeyTile + group) / 2, words[i]);
  }
  Store(s.highest + row, top);
  Store(s.decays + row, decay);
  Store(s.totals + row, Fma(Load(s.totals + row), decay, Add(evens, odds)));
}

// scores[key][row] of keys [begin, end), multiples of 32, and all rows of the task.
template <int kRowTiles>
FATHOM_INLINE void ScoreOnTiles(int begin, int end, int dim, AttentionScratch& s) {
  const int depth = PaddedDepth(dim);
  const auto* keys = reinterpret_cast<const Bf16*>(s.keys);
  const auto* queries = reinterpret_cast<const Bf16*>(s.queries);
  Fetch nothing;
  for (int key = begin; key < end; key += 2 * kTileRows) {
    const Bf16* const rows[2] = {keys + key * depth, keys + (key + kTileRows) * depth};
    float* const scores[2] = {s.weights + key * kQueryRows,
                              s.weights + (key + kTileRows) * kQueryRows};
    ZeroTiles<2, kRowTiles>();
    AddProducts<2, kRowTiles>(rows, depth, queries, depth / kTileDepth, nothing);
    StoreTiles<2, kRowTiles>(scores, kQueryRows);
  }
}

// sums[row] += weights[row] * values, of keys [begin, end), multiples of 32.
template <int kRowTiles>
FATHOM_INLINE void AddValuesOnTiles(int begin, int end, int dim, AttentionScratch& s) {
  constexpr int kCols = kRowTiles == 1 ? 4 : 2;
  const int stride = PaddedDim(dim);
  const Bf16* weights[kRowTiles];
  for (int i = 0; i < kRowTiles; ++i) {
    weights[i] = reinterpret_cast<const Bf16*>(s.pairs) + i * kTileRows * kKeyTile + begin;
  }
  Fetch nothing;
  for (int at = 0; at < stride; at += kCols * kTileSums) {
    const auto* panel = reinterpret_cast<const Bf16*>(s.values) +
                        (at / kPanelCols * kKeyTile + begin) * kPanelCols + 2 * (at % kPanelCols);
    float* sums[kRowTiles];
    for (int i = 0; i < kRowTiles; ++i) sums[i] = s.sums + i * kTileRows * stride + at;
    LoadTiles<kRowTiles, kCols>(sums, stride);
    AddProducts<kRowTiles, kCols>(weights, kKeyTile, panel, (end - begin) / kTileDepth, nothing);
    StoreTiles<kRowTiles, kCols>(sums, stride);
  }
}

// Tokens [begin, end) of the tile at position `tile`, for kRowTiles * 16 rows: those behind the
// rows of the task hold anything, which no other row sees.
template <int kRowTiles>
__attribute__((noinline)) static void UpdateOnTiles(const AttentionTask& task,
                                                    const TilePointers<Bf16>& found,
                                                    const TilePointers<Bf16>& next, int tile,
                                                    int begin, int end, AttentionScratch& s) {
  const int dim = task.args->kv.head_dim;
  // Whole steps of k: tokens outside [begin, end) read as zeros and weigh nothing.
  const int from = begin / kTileDepth * kTileDepth;
  const int to = (end + kTileDepth - 1) / kTileDepth * kTileDepth;
  CopyKeys(found.keys, from, to, dim, next.keys, s.keys);
  PackValues(found.values, from, to, dim, next.values, s.values);
  ScoreOnTiles<kRowTiles>(from, to, dim, s);
  Seen seen;
  FindSeen(task, tile, begin, end, seen);
  for (int row = 0; row < kRowTiles * kTileRows; row += kLanes) {
    if (seen.all) {
      WeighRows<true>(row, from, to, seen, task.args->scale, s);
    } else {
      WeighRows<false>(row, from, to, seen, task.args->scale, s);
    }
  }
  Decay(task.num_rows, PaddedDim(dim), s);
  AddValuesOnTiles<kRowTiles>(from, to, dim, s);
}

static void AttendOnTiles(const AttentionTask& task, AttentionScratch& s) {
  const Bf16* queries[kQueryRows];
  for (int row = 0; row < kQueryRows; ++row) {
    queries[row] = row < task.num_rows ? QueryOf<Bf16>(task, row) : kNothing<Bf16>;
  }
  PackKeys(queries, 0, task.num_rows, task.args->kv.head_dim, queries, s.queries);
  ClearSums(task, s);
  ConfigureTiles(kTileRows);
  const int row_tiles = (task.num_rows + kTileRows - 1) / kTileRows;
  WalkTiles<Bf16>(
      task, [&](const TilePointers<Bf16>& found, const TilePointers<Bf16>& next, int tile,
                int begin, int end) __attribute__((always_inline)) {
        switch (row_tiles) {
          case 1:
            return UpdateOnTiles<1>(task, found, next, tile, begin, end, s);
          case 2:
            return UpdateOnTiles<2>(task, found, next, tile, begin, end, s);
          default:
            return UpdateOnTiles<3>(task, found, next, tile, begin, end, s);
        }
      });
  ReleaseTiles();
  WriteRows<Bf16>(task, s);
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
