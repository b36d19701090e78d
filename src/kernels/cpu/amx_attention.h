#pragma once

// Attention over BF16 keys and values on AMX; the walk over tiles of keys is that of
// attention_kernels.h. Included only by kernels_amx.cc.
//
// Scores are computed transposed, keys * queries^T: keys need no packing, queries are packed once a
// task, and one vector holds the scores of one key for 16 query rows, so that the softmax needs no
// sum across a vector. What multiplies the values are weights rounded to BF16; their totals are of
// the weights before. 16 rows at a time go from scores to sums, so that little lies in between.

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

static_assert(kLanes == kTileRows && kKeyTile == 4 * kTileRows && kMostQueryRows % kTileRows == 0);

// A score may exceed the one that weighs 1 by so many powers of two before the sums have to follow:
// that seldom happens after the first tile, and in floating point it costs no precision.
constexpr float kHeadroom = 8;

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
    return window > 0 ? first_row_at(tile + key + window) : kMostQueryRows;
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

// Where tiles of 16 keys begin, rows PaddedDepth(dim) values apart: where they lie if the cache has
// them all in a row, or in `copies`, padded with zeros. Of tokens [from, to), multiples of 16, and
// [begin, end) are there.
FATHOM_INLINE void FindKeys(const KvCacheView& kv, const TilePointers<Bf16>& found,
                            const TilePointers<Bf16>& next, int from, int to, int begin, int end,
                            float* copies, const Bf16* (&tiles)[kKeyTile / kTileRows]) {
  const int dim = kv.head_dim;
  const int words = dim / 2;
  const int stride = PaddedDepth(dim) / 2;
  const bool in_rows = kv.block_tokens % kTileRows == 0 && dim % kTileDepth == 0;
  for (int first = from; first < to; first += kTileRows) {
    const bool in_place = in_rows && begin <= first && first + kTileRows <= end;
    float* copy = copies + first * stride;
    tiles[first / kTileRows] = in_place ? found.keys[first] : reinterpret_cast<const Bf16*>(copy);
    for (int i = 0; i < kTileRows; ++i) {
      FetchRow(next.keys[first + i], dim);
      for (int word = 0; !in_place && word < stride; word += kLanes) {
        Store(copy + i * stride + word, LoadWords(found.keys[first + i] + 2 * word, words - word));
      }
    }
  }
}

// 2^x for x of at least -125, or 2^-125, to 3e-6 of its value; the coefficients are fitted so that
// 2^0 is 1.
FATHOM_INLINE Vec PowerOfTwo(Vec x) {
  constexpr int kDown = 9;
  const Vec clamped = Max(Set(-125.0F), x);
  const Vec f = _mm512_reduce_ps(clamped, kDown);  // less the whole number below
  Vec p = Fma(f, Set(1.34259053e-2F), Set(5.22439107e-2F));
  p = Fma(p, f, Set(0.241279453F));
  p = Fma(p, f, Set(0.69304496F));
  return _mm512_scalef_ps(Fma(p, f, Set(1.0F)), clamped);
}

// Rounded to BF16, ties away from zero. A NaN that comes from BF16 values stays one.
FATHOM_INLINE Vec RoundPairs(Vec even, Vec odd) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
  const __m512i high = _mm512_add_epi32(_mm512_castps_si512(odd), half);
  return _mm512_castsi512_ps(_mm512_mask_blend_epi16(0xAAAAAAAA, low, high));
}

// The sums of 16 rows so far, by what a higher score makes of them.
FATHOM_INLINE void DecayRows(Vec decay, int row, int stride, AttentionScratch& s) {
  alignas(64) float decays[kLanes];
  Store(decays, decay);
  for (int i = 0; i < kLanes; ++i) {
    float* sums = s.sums + (row + i) * stride;
    for (int at = 0; at < stride; at += kLanes) {
      Store(sums + at, Mul(Load(sums + at), Set(decays[i])));
    }
  }
}

// From the scores of rows [row, row + 16) for keys [begin, end), multiples of 32, to weights.
template <bool kAllSeen>
FATHOM_INLINE void WeighRows(const float* scores, int row, int begin, int end, const Seen& seen,
                             float scale, int stride, AttentionScratch& s) {
  constexpr float kLog2E = 1.44269504088896341F;
  constexpr int kChains = 4;
  const Vec factor = Set(scale * kLog2E);
  const auto select = [&](Vec inside, Vec outside, int key) __attribute__((always_inline)) {
    if constexpr (kAllSeen) return inside;
    return SelectLanes(inside, outside, seen.begin[key] - row, seen.end[key] - row);
  };
  Vec highest[kChains] = {Set(kLowest), Set(kLowest), Set(kLowest), Set(kLowest)};
  for (int key = begin; key < end; key += kChains) {
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      const Vec score = Load(scores + (key + i) * kTileRows);
      highest[i] = Max(select(score, Set(kLowest), key + i), highest[i]);
    }
  }
  const Vec highest_now =
      Mul(Max(Max(highest[0], highest[1]), Max(highest[2], highest[3])), factor);
  const Vec before = Load(s.highest + row);
  const __mmask16 higher = _mm512_cmp_ps_mask(Add(before, Set(kHeadroom)), highest_now, _CMP_LT_OQ);
  const Vec top = _mm512_mask_mov_ps(before, higher, highest_now);
  Vec total = Load(s.totals + row);
  if (higher != 0) {
    const Vec decay = PowerOfTwo(Sub(before, top));
    DecayRows(decay, row, stride, s);
    total = Mul(total, decay);
    Store(s.highest + row, top);
  }
  const Vec less_top = Sub(Zero(), top);
  const auto weigh = [&](int key) __attribute__((always_inline)) {
    const Vec score = Load(scores + key * kTileRows);
    return select(PowerOfTwo(Fma(score, factor, less_top)), Zero(), key);
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
    for (int i = 0; i < kLanes; ++i) Store(s.pairs + (i * kKeyTile + group) / 2, words[i]);
  }
  Store(s.totals + row, Add(total, Add(evens, odds)));
}

// scores[key][16] of keys [begin, end), multiples of 32, and 16 rows.
FATHOM_INLINE void ScoreOnTiles(const Bf16* const (&keys)[kKeyTile / kTileRows], int begin, int end,
                                int depth, const Bf16* queries, float* scores) {
  const int steps = depth / kTileDepth;
  if (end - begin == kKeyTile) {
    float* const out[4] = {scores, scores + kTileRows * kTileRows,
                           scores + 2 * kTileRows * kTileRows, scores + 3 * kTileRows * kTileRows};
    ZeroTiles<4, 1>();
    AddProducts<4, 1, kTileRows>(keys, depth, queries, steps);
    return StoreTiles<4, 1>(out, kTileRows);
  }
  const Bf16* const rows[2] = {keys[begin / kTileRows], keys[begin / kTileRows + 1]};
  float* const out[2] = {scores + begin * kTileRows, scores + (begin + kTileRows) * kTileRows};
  ZeroTiles<2, 1>();
  AddProducts<2, 1, kTileRows>(rows, depth, queries, steps);
  StoreTiles<2, 1>(out, kTileRows);
}

// sums[row] += weights[row] * values, of keys [begin, end), multiples of 32, and 16 rows.
FATHOM_INLINE void AddValuesOnTiles(int row, int begin, int end, int stride, AttentionScratch& s) {
  constexpr int kCols = kPanelCols / kTileSums;
  const Bf16* const weights[1] = {reinterpret_cast<const Bf16*>(s.pairs) + begin};
  for (int at = 0; at < stride; at += kPanelCols) {
    const auto* panel =
        reinterpret_cast<const Bf16*>(s.values) + (at * kKeyTile + begin * kPanelCols);
    float* const sums[1] = {s.sums + row * stride + at};
    LoadTiles<1, kCols>(sums, stride);
    AddProducts<1, kCols>(weights, kKeyTile, panel, (end - begin) / kTileDepth);
    StoreTiles<1, kCols>(sums, stride);
  }
}

// Tokens [begin, end) of the tile at position `tile`, for whole tiles of rows: those behind the
// rows of the task hold anything, which no other row sees.
__attribute__((noinline)) static void UpdateOnTiles(const AttentionTask& task,
                                                    const TilePointers<Bf16>& found,
                                                    const TilePointers<Bf16>& next, int tile,
                                                    int begin, int end, AttentionScratch& s) {
  const KvCacheView& kv = task.args->kv;
  const int depth = PaddedDepth(kv.head_dim);
  const int stride = PaddedDim(kv.head_dim);
  const float scale = task.args->scale;
  // Whole steps of k: tokens outside [begin, end) read as zeros and weigh nothing.
  const int from = begin / kTileDepth * kTileDepth;
  const int to = (end + kTileDepth - 1) / kTileDepth * kTileDepth;
  const Bf16* keys[kKeyTile / kTileRows];
  FindKeys(kv, found, next, from, to, begin, end, s.keys, keys);
  PackValues(found.values, from, to, kv.head_dim, next.values, s.values);
  Seen seen;
  FindSeen(task, tile, begin, end, seen);
  // While rows are weighed, the scores of the next ones are computed.
  const auto score = [&](int row) __attribute__((always_inline)) {
    ScoreOnTiles(keys, from, to, depth, reinterpret_cast<const Bf16*>(s.queries) + row * depth,
                 s.weights + row / kTileRows % 2 * kKeyTile * kTileRows);
  };
  score(0);
  for (int row = 0; row < task.num_rows; row += kTileRows) {
    if (row + kTileRows < task.num_rows) score(row + kTileRows);
    const float* scores = s.weights + row / kTileRows % 2 * kKeyTile * kTileRows;
    if (seen.all) {
      WeighRows<true>(scores, row, from, to, seen, scale, stride, s);
    } else {
      WeighRows<false>(scores, row, from, to, seen, scale, stride, s);
    }
    AddValuesOnTiles(row, from, to, stride, s);
  }
}

// queries[row / 16][depth / 2][16][2] of whole tiles of rows.
FATHOM_INLINE void PackQueries(const AttentionTask& task, AttentionScratch& s) {
  const int words = task.args->kv.head_dim / 2;
  const int depth = PaddedDepth(task.args->kv.head_dim);
  for (int first = 0; first < task.num_rows; first += kTileRows) {
    for (int word = 0; word < depth / 2; word += kLanes) {
      Vec rows[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        rows[i] = first + i < task.num_rows
                      ? LoadWords(QueryOf<Bf16>(task, first + i) + 2 * word, words - word)
                      : Zero();
      }
      Transpose(rows);
      for (int i = 0; i < kLanes; ++i) {
        Store(s.queries + (first * depth / 2 + (word + i) * kTileRows), rows[i]);
      }
    }
  }
}

static void AttendOnTiles(const AttentionTask& task, AttentionScratch& s) {
  PackQueries(task, s);
  const int stride = PaddedDim(task.args->kv.head_dim);
  for (int row = 0; row < task.num_rows; row += kTileRows) {
    Store(s.highest + row, Set(kLowest));
    Store(s.totals + row, Zero());
    for (int i = 0; i < kTileRows * stride; i += kLanes) Store(s.sums + row * stride + i, Zero());
  }
  ConfigureTiles(kTileRows);
  WalkTiles<Bf16>(
      task, [&](const TilePointers<Bf16>& found, const TilePointers<Bf16>& next, int tile,
                int begin, int end) __attribute__((always_inline)) {
        UpdateOnTiles(task, found, next, tile, begin, end, s);
      });
  ReleaseTiles();
  WriteRows<Bf16>(task, s);
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
