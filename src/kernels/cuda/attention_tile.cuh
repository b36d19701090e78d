#pragma once

// Tiles of prefill: consecutive rows of a sequence and a kv head, a row being one head of the group
// for one query, so that short pieces of prompts fill a tile all the same.

#include "kernels/cuda/attention_device.cuh"

namespace fathom::kernels::cuda {

// Rows of one sequence and kv head.
struct Tile {
  SequenceSpan span;
  int32_t kv_head = 0;
  int32_t group = 0;
  int32_t first_row = 0;
  int32_t num_rows = 0;  // that are not padding
  KeyRange keys;         // that any of the rows sees

  // `max_rows` from `row` on, or what there is.
  __device__ void Set(const SequenceSpan& of, int32_t head, int32_t group_heads, int32_t row,
                      int32_t max_rows, int32_t window) {
    span = of;
    kv_head = head;
    group = group_heads;
    first_row = row;
    num_rows = min(span.query_len * group - first_row, max_rows);
    keys = {VisibleKeys(Position(0), window).first, Position(num_rows - 1)};
  }
  __device__ int32_t Position(int32_t row) const {
    return span.context_len + (first_row + row) / group;
  }
  // Positions that every row sees: none if the first lies behind the last.
  __device__ KeyRange SeenByAll(int32_t window) const {
    return {VisibleKeys(Position(num_rows - 1), window).first, Position(0)};
  }
  // Of a row in [tokens, heads, head_dim].
  __device__ int64_t Offset(int32_t row, int32_t heads, int32_t head_dim) const {
    const int32_t query = (first_row + row) / group;
    const int32_t head = kv_head * group + (first_row + row) % group;
    return ((span.first_token + query) * static_cast<int64_t>(heads) + head) * head_dim;
  }
};

// This block's tile, to shared memory; false if it has none. Blocks x are kv heads, blocks y tiles
// from the end, where those are that see most keys: the longest must not start last. All threads of
// the block call it.
template <int kThreads, int kRows>
__device__ bool FindTile(const PagedAttentionArgs& args, Tile& tile) {
  const int32_t group = args.num_q_heads / args.kv.num_kv_heads;
  int32_t index = 0;
  SequencePieces found;
  const bool has_work = FindSequence<kThreads>(
      args.sequences, args.num_sequences,
      [&](const SequenceSpan& span) { return PrefillTiles(span, group, kRows); },
      [&](int32_t total) {
        index = total - 1 - static_cast<int32_t>(blockIdx.y);
        return index;
      },
      found);
  if (!has_work) return false;
  if (threadIdx.x == 0) {
    tile.Set(args.sequences[found.sequence], static_cast<int32_t>(blockIdx.x), group,
             (index - found.before) * kRows, kRows, args.window);
  }
  __syncthreads();
  return true;
}

}  // namespace fathom::kernels::cuda
