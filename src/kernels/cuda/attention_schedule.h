#pragma once

// How attention's work is cut into pieces. Pure functions of what lies in the arguments, shared by
// host, device and tests.
//
// Decode: every sequence with one query is, for each head group, a row of chunks of kChunkTokens
// positions. All rows laid end to end (sequence-major) are cut into equally long parts, one for
// each thread block, however the lengths of the sequences differ. A row that crosses a cut is
// combined by the block that begins it. The grid depends on the device alone, so that a
// captured graph may replay the launch while sequences grow.
//
// Prefill: the query_len * group rows of a sequence and a head group are cut into tiles.

#include <cstdint>

#include "kernels/op_args.h"

#ifdef __CUDACC__
#define FATHOM_HOST_DEVICE __host__ __device__
#else
#define FATHOM_HOST_DEVICE
#endif

namespace fathom::kernels::cuda {

inline constexpr int32_t kChunkTokens = 16;
// A chunk and a tile are whole groups of positions that lie in one block of the cache.
inline constexpr int32_t kBlockTokensStep = 8;
// Two chunks for each warp, which are on their way at once: fewer would spend more on combining
// than on reading.
inline constexpr int32_t kMinChunksPerWorker = 8;
// Heads of one group that share a pass over the keys.
inline constexpr int32_t kMaxHeadsPerPass = 16;

// Positions a query sees, both ends included.
struct KeyRange {
  int32_t first = 0;
  int32_t last = 0;
};

FATHOM_HOST_DEVICE constexpr KeyRange VisibleKeys(int32_t position, int32_t window) {
  return {window > 0 && position >= window ? position - window + 1 : 0, position};
}

// 0 for sequences that the decode kernel skips.
FATHOM_HOST_DEVICE constexpr int32_t DecodeChunks(const SequenceSpan& span, int32_t window) {
  if (span.query_len != 1) return 0;
  const KeyRange keys = VisibleKeys(span.context_len, window);
  return keys.last / kChunkTokens - keys.first / kChunkTokens + 1;
}

// `chunks` in all, cut between so many workers that each has about kMinChunksPerWorker at least.
// Blocks begin with this, so it divides once, and only numbers of 32 bits.
struct DecodePartition {
  int32_t chunks = 0;
  int32_t workers = 0;
  int32_t each = 0;  // chunks of a worker, the first `more` of them having one more
  int32_t more = 0;

  FATHOM_HOST_DEVICE constexpr DecodePartition(int32_t num_chunks, int32_t max_workers)
      : chunks(num_chunks), workers(max_workers) {
    const int32_t wanted =
        num_chunks / kMinChunksPerWorker + (num_chunks % kMinChunksPerWorker != 0 ? 1 : 0);
    if (wanted < workers) workers = wanted;
    if (workers == 0) return;
    each = static_cast<int32_t>(static_cast<uint32_t>(chunks) / static_cast<uint32_t>(workers));
    more = chunks - each * workers;
  }
  // Worker i has the chunks [Begin(i), Begin(i + 1)): at least one.
  FATHOM_HOST_DEVICE constexpr int32_t Begin(int32_t worker) const {
    return worker * each + (worker < more ? worker : more);
  }
  FATHOM_HOST_DEVICE constexpr int32_t Owner(int32_t chunk) const {
    const int32_t longer = more * (each + 1);
    if (chunk < longer) {
      return static_cast<int32_t>(static_cast<uint32_t>(chunk) / static_cast<uint32_t>(each + 1));
    }
    return more + static_cast<int32_t>(static_cast<uint32_t>(chunk - longer) /
                                       static_cast<uint32_t>(each));
  }
};

// 0 for sequences that the prefill kernel skips, as have fewer than `queries_min` queries.
FATHOM_HOST_DEVICE constexpr int32_t PrefillTiles(const SequenceSpan& span, int32_t group,
                                                  int32_t tile_rows, int32_t queries_min = 2) {
  if (span.query_len < queries_min) return 0;
  return static_cast<int32_t>((static_cast<int64_t>(span.query_len) * group + tile_rows - 1) /
                              tile_rows);
}

// At least the sum of PrefillTiles over sequences of `num_tokens` tokens.
FATHOM_HOST_DEVICE constexpr int32_t MaxPrefillTiles(int32_t num_tokens, int32_t num_sequences,
                                                     int32_t group, int32_t tile_rows) {
  return static_cast<int32_t>(static_cast<int64_t>(num_tokens) * group / tile_rows) + num_sequences;
}

}  // namespace fathom::kernels::cuda
