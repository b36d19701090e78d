#pragma once

// Paged attention with an online softmax (Milakov and Gimelshein, arXiv:1805.02867). Included only
// by the kernels_<isa>.cc files.
//
// A task walks its sequence's keys in tiles of kKeyTile positions that start at multiples of it.
// Keys and values of a tile are packed into the panels of gemm_kernels.h, so that all rows of the
// task multiply with them in registers: scores = queries * keys^T, sums += weights * values. What a
// row does not see weighs exactly 0, which changes no sum; so its result depends on its own
// position alone, and prefill, any chunking and decode agree bit for bit.

#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

constexpr float kLowest = -3.402823466e38F;

template <typename T>
struct TilePointers {
  const T* keys[kKeyTile];
  const T* values[kKeyTile];
};

template <typename T>
constexpr T kNothing[kWidestHead] = {};

// Finds positions [begin, end), which lie in the tile that starts at `tile`; the others read as
// zeros. Entries are numbered from the tile's start, so that a position has the same lane whatever
// the task.
template <typename T>
FATHOM_INLINE void FindTile(const KvCacheView& kv, const AttentionTask& task, int tile, int begin,
                            int end, TilePointers<T>& out) {
  const int32_t* table = kv.block_tables + static_cast<int64_t>(task.sequence.slot) * kv.max_blocks;
  const int64_t head = static_cast<int64_t>(task.kv_head) * kv.block_tokens;
  for (int i = 0; i < kKeyTile; ++i) out.keys[i] = out.values[i] = kNothing<T>;
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

// How a storage type is packed and multiplied: 32-bit words of one value or of two.
template <typename T>
struct Storage;
template <>
struct Storage<float> {
  using Query = float;
  using KeyPanel = F32Panel;
  using ValuePanel = F32Panel;
  static constexpr int kPerWord = 1;
};
template <>
struct Storage<Bf16> {
#if defined(__AVX512BF16__)
  using Query = Bf16;
  using KeyPanel = Bf16DotPanel;
#else
  using Query = float;
  using KeyPanel = Bf16Panel;
#endif
  using ValuePanel = Bf16Panel;
  static constexpr int kPerWord = 2;
};

FATHOM_INLINE int PaddedDim(int dim) { return (dim + kPanelCols - 1) / kPanelCols * kPanelCols; }

// One row of keys or values of a later tile, which memory brings while this tile is packed: the
// blocks of a sequence are too short and too scattered for the processor to see them coming.
template <typename T>
FATHOM_INLINE void FetchRow(const T* row, int dim) {
  for (int i = 0; i < dim; i += kLineBytes / static_cast<int>(sizeof(T))) {
    _mm_prefetch(reinterpret_cast<const char*>(row + i), _MM_HINT_T0);
  }
}

// panel[word][token] of the groups of kLanes tokens that [begin, end) touches.
template <typename T>
FATHOM_INLINE void PackKeys(const T* const* keys, int begin, int end, int dim, const T* const* next,
                            float* panel) {
  constexpr int kPerWord = Storage<T>::kPerWord;
  const int words = dim / kPerWord;
  for (int token = begin / kLanes * kLanes; token < end; token += kLanes) {
    for (int i = 0; i < kLanes; ++i) FetchRow(next[token + i], dim);
    for (int word = 0; word < words; word += kLanes) {
      Vec rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        rows[i] = LoadWords(keys[token + i] + word * kPerWord, words - word);
      }
      Transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) Store(panel + (word + i) * kPanelCols + token, rows[i]);
    }
  }
}

// panels[dim / 64][token][64] of the pairs of tokens that [begin, end) touches.
FATHOM_INLINE void PackValues(const float* const* values, int begin, int end, int dim,
                              const float* const* next, float* panels) {
  for (int token = begin / 2 * 2; token < end; ++token) {
    FetchRow(next[token], dim);
    for (int at = 0; at < PaddedDim(dim); at += kLanes) {
      float* panel = panels + at / kPanelCols * kKeyTile * kPanelCols + at % kPanelCols;
      Store(panel + token * kPanelCols, at < dim ? LoadSome(values[token] + at, dim - at) : Zero());
    }
  }
}

// panels[dim / 64][token / 2][64][2], of the same tokens.
FATHOM_INLINE void PackValues(const Bf16* const* values, int begin, int end, int dim,
                              const Bf16* const* next, float* panels) {
  for (int token = begin / 2 * 2; token < end; token += 2) {
    FetchRow(next[token], dim);
    FetchRow(next[token + 1], dim);
    const Bf16* even = values[token];
    const Bf16* odd = values[token + 1];
    for (int at = 0; at < PaddedDim(dim); at += kLanes) {
      float* panel = panels + (at / kPanelCols * kKeyTile / 2 * kPanelCols) + at % kPanelCols;
      Store(panel + token / 2 * kPanelCols,
            at < dim ? Interleave(even + at, odd + at, dim - at) : Zero());
    }
  }
}

// From scores to weights, for one row that sees tokens [begin, end) of the tile.
FATHOM_INLINE void WeighRow(int row, int begin, int end, float scale, AttentionScratch& s) {
  float* weights = s.weights + row * kKeyTile;
  if (begin >= end) {
    for (int i = 0; i < kKeyTile; i += kLanes) Store(weights + i, Zero());
    s.decays[row] = 1;
    return;
  }
  Vec scores[kKeyTile / kLanes];
  Vec highest = Set(s.highest[row]);
  for (int i = 0; i < kKeyTile; i += kLanes) {
    scores[i / kLanes] =
        SelectLanes(Mul(Load(weights + i), Set(scale)), Set(kLowest), begin - i, end - i);
    highest = Max(scores[i / kLanes], highest);
  }
  const float top = Highest(highest);
  float decay[kLanes];
  Store(decay, Exp(Set(s.highest[row] - top)));
  Vec total = Zero();
  for (int i = 0; i < kKeyTile; i += kLanes) {
    const Vec w = Exp(Sub(scores[i / kLanes], Set(top)));
    Store(weights + i, w);
    total = Add(total, w);
  }
  s.highest[row] = top;
  s.decays[row] = decay[0];
  s.totals[row] = s.totals[row] * decay[0] + Sum(total);
}

// The sums so far, by what a higher score makes of them.
FATHOM_INLINE void Decay(int num_rows, int stride, AttentionScratch& s) {
  for (int row = 0; row < num_rows; ++row) {
    const Vec decay = Set(s.decays[row]);
    for (int i = row * stride; i < (row + 1) * stride; i += kLanes) {
      Store(s.sums + i, Mul(Load(s.sums + i), decay));
    }
  }
}

FATHOM_INLINE int GroupOf(const PagedAttentionArgs& args) {
  return args.num_q_heads / args.kv.num_kv_heads;
}

// Tokens [begin, end) of the tile at position `tile`.
template <typename T>
FATHOM_INLINE void UpdateTile(const AttentionTask& task, const TilePointers<T>& found,
                              const TilePointers<T>& next, int tile, int begin, int end,
                              AttentionScratch& s) {
  const PagedAttentionArgs& args = *task.args;
  const int dim = args.kv.head_dim;
  const int group = GroupOf(args);
  PackKeys(found.keys, begin, end, dim, next.keys, s.keys);
  PackValues(found.values, begin, end, dim, next.values, s.values);
  GemmTile scores;
  scores.a = s.queries;
  scores.panel = s.keys;
  scores.c = s.weights;
  scores.lda = dim;
  scores.ldc = kKeyTile;
  scores.rows = task.num_rows;
  scores.k = dim;
  scores.cols = kKeyTile;
  Gemm<typename Storage<T>::KeyPanel>(scores);

  for (int row = 0; row < task.num_rows; ++row) {
    const int last = task.sequence.context_len + (task.first_row + row) / group;
    const int first = args.window > 0 && last >= args.window ? last - args.window + 1 : 0;
    const int row_begin = first - tile > begin ? first - tile : begin;
    const int row_end = last + 1 - tile < end ? last + 1 - tile : end;
    WeighRow(row, row_begin, row_end, args.scale, s);
  }
  GemmTile values;
  values.a = s.weights;
  values.lda = kKeyTile;
  values.rows = task.num_rows;
  const int stride = PaddedDim(dim);
  Decay(task.num_rows, stride, s);
  for (int at = 0; at < dim; at += kPanelCols) {
    values.panel = s.values + static_cast<int64_t>(at) * kKeyTile / Storage<T>::kPerWord;
    values.cols = dim - at < kPanelCols ? dim - at : kPanelCols;
    AddStretch<typename Storage<T>::ValuePanel>(values, begin / 2 * 2, end, s.sums + at, stride,
                                                {});
  }
}

template <typename T>
FATHOM_INLINE T* RowOf(const AttentionTask& task, T* base, int num_heads, int group, int row) {
  const int64_t token = task.sequence.first_token + (task.first_row + row) / group;
  const int64_t head = task.kv_head * group + (task.first_row + row) % group;
  return base + (token * num_heads + head) * task.args->kv.head_dim;
}

// Row `row` of the task in args.qkv.
template <typename T>
FATHOM_INLINE const T* QueryOf(const AttentionTask& task, int row) {
  const PagedAttentionArgs& args = *task.args;
  return RowOf(task, static_cast<const T*>(args.qkv), args.num_q_heads + 2 * args.kv.num_kv_heads,
               GroupOf(args), row);
}

// Calls update(found, next, tile, begin, end) for every tile that a row of the task sees: positions
// [tile + begin, tile + end) are in `found`, and in `next` are those of the tile behind it.
template <typename T, typename Update>
FATHOM_INLINE void WalkTiles(const AttentionTask& task, const Update& update) {
  const PagedAttentionArgs& args = *task.args;
  const int group = GroupOf(args);
  const int first_query = task.sequence.context_len + task.first_row / group;
  const int last_query = task.sequence.context_len + (task.first_row + task.num_rows - 1) / group;
  const int start =
      args.window > 0 && first_query >= args.window ? first_query - args.window + 1 : 0;
  // The blocks of positions before `start` may be gone.
  const auto begin_of = [start](int tile) { return tile > start ? tile : start; };
  const auto end_of = [last_query](int tile) {
    return tile + kKeyTile < last_query + 1 ? tile + kKeyTile : last_query + 1;
  };
  TilePointers<T> found[2];
  int tile = start / kKeyTile * kKeyTile;
  FindTile(args.kv, task, tile, begin_of(tile), end_of(tile), found[0]);
  for (int turn = 0; tile <= last_query; ++turn, tile += kKeyTile) {
    const int after = tile + kKeyTile;
    TilePointers<T>& next = found[(turn + 1) % 2];
    FindTile(args.kv, task, after, after, end_of(after), next);
    update(found[turn % 2], next, tile, begin_of(tile) - tile, end_of(tile) - tile);
  }
}

// Before the first tile: sums of nothing.
FATHOM_INLINE void ClearSums(const AttentionTask& task, AttentionScratch& s) {
  const int stride = PaddedDim(task.args->kv.head_dim);
  for (int row = 0; row < task.num_rows; ++row) {
    for (int i = 0; i < stride; i += kLanes) Store(s.sums + row * stride + i, Zero());
    s.highest[row] = kLowest;
    s.totals[row] = 0;
  }
}

template <typename T>
FATHOM_INLINE void WriteRows(const AttentionTask& task, const AttentionScratch& s) {
  const PagedAttentionArgs& args = *task.args;
  const int dim = args.kv.head_dim;
  for (int row = 0; row < task.num_rows; ++row) {
    T* out = RowOf(task, static_cast<T*>(args.out), args.num_q_heads, GroupOf(args), row);
    const Vec inverse = Set(1.0F / s.totals[row]);
    for (int i = 0; i < dim; i += kLanes) {
      StoreSome(out + i, Mul(Load(s.sums + row * PaddedDim(dim) + i), inverse), dim - i);
    }
  }
}

template <typename T>
static void Attend(const AttentionTask& task, AttentionScratch& s) {
  const int dim = task.args->kv.head_dim;
  auto* queries = reinterpret_cast<typename Storage<T>::Query*>(s.queries);
  for (int row = 0; row < task.num_rows; ++row) {
    const T* query = QueryOf<T>(task, row);
    for (int i = 0; i < dim; i += kLanes) {
      StoreSome(queries + static_cast<int64_t>(row) * dim + i, LoadSome(query + i, dim - i),
                dim - i);
    }
  }
  ClearSums(task, s);
  WalkTiles<T>(
      task, [&](const TilePointers<T>& found, const TilePointers<T>& next, int tile, int begin,
                int end) __attribute__((always_inline)) {
        UpdateTile(task, found, next, tile, begin, end, s);
      });
  WriteRows<T>(task, s);
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
