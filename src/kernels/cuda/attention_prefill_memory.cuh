#pragma once

// Shared memory of prefill on Hopper, and what passes through it: steps of keys and values in a
// ring, which goes on from tile to tile, and the tiles themselves, which one warp finds for all.
//
// A block takes tiles until there are none: the ring stays full where one tile ends and the next
// begins.

#include <cudaTypedefs.h>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace fathom::kernels::cuda::hopper {

inline constexpr int32_t kGroupThreads = 128;
inline constexpr int32_t kCopyWarps = kGroupThreads / 32;
inline constexpr int32_t kConsumers = 2;
inline constexpr int32_t kThreads = (1 + kConsumers) * kGroupThreads;
inline constexpr int32_t kConsumerThreads = kConsumers * kGroupThreads;
inline constexpr int32_t kGroupRows = 64;
inline constexpr int32_t kRows = kConsumers * kGroupRows;
inline constexpr int32_t kKeys = 128;   // a step
inline constexpr int32_t kStages = 3;   // as many as fit
inline constexpr int32_t kBoarded = 2;  // tiles that are known at a time
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFU;

template <int kDim>
struct Shape {
  static constexpr int32_t kColumns = kDim / 64;
  static constexpr int32_t kQueryColumnBytes = kRows * 128;
  static constexpr int32_t kKeyColumnBytes = kKeys * 128;
  static constexpr int32_t kQueryBytes = kColumns * kQueryColumnBytes;
  static constexpr int32_t kTileBytes = kColumns * kKeyColumnBytes;
  static constexpr int32_t kBarrierBytes = (4 * kStages + 2 * kBoarded) * 8;
  // The front is aligned by hand.
  static constexpr int32_t kSharedBytes =
      1024 + kQueryBytes + 2 * kStages * kTileBytes + kBarrierBytes;
};

template <int kDim>
struct Memory {
  using S = Shape<kDim>;

  uint32_t base;

  __device__ uint32_t Queries() const { return base; }
  __device__ uint32_t Keys(int32_t stage) const {
    return base + S::kQueryBytes + stage * S::kTileBytes;
  }
  __device__ uint32_t Values(int32_t stage) const { return Keys(kStages + stage); }
  __device__ uint32_t Barrier(int32_t index) const { return Keys(2 * kStages) + index * 8; }
  __device__ uint32_t KeysFull(int32_t stage) const { return Barrier(stage); }
  __device__ uint32_t KeysEmpty(int32_t stage) const { return Barrier(kStages + stage); }
  __device__ uint32_t ValuesFull(int32_t stage) const { return Barrier(2 * kStages + stage); }
  __device__ uint32_t ValuesEmpty(int32_t stage) const { return Barrier(3 * kStages + stage); }
  __device__ uint32_t TileFull(int32_t place) const { return Barrier(4 * kStages + place); }
  __device__ uint32_t TileEmpty(int32_t place) const { return TileFull(kBoarded + place); }

  // Of an address, for ordinary accesses.
  __device__ char* At(uint32_t address) const {
    return DynamicShared() + (address - SharedAddress(DynamicShared()));
  }
  __device__ void InitBarriers() const {
    for (int32_t i = 0; i < kStages; ++i) {
      InitBarrier(KeysFull(i), 1);
      InitBarrier(ValuesFull(i), 1);
      InitBarrier(KeysEmpty(i), kConsumers * 4);
      InitBarrier(ValuesEmpty(i), kConsumers * 4);
    }
    for (int32_t i = 0; i < kBoarded; ++i) {
      InitBarrier(TileFull(i), 1);
      InitBarrier(TileEmpty(i), kCopyWarps - 1 + kConsumers * 4);
    }
    FenceBarrierInit();
  }
};

// A place in a ring of `kPlaces`, and the parity of its barriers' phase.
template <int kPlaces>
struct Place {
  int32_t index = 0;
  uint32_t parity = 0;

  __device__ void Advance() {
    if (++index == kPlaces) {
      index = 0;
      parity ^= 1;
    }
  }
};

// Keys and values that are read over and over stay in the second-level cache, of 50 MB.
inline constexpr int64_t kCachedBytes = int64_t{36} << 20;

// The block's tiles, by a warp: a block takes the next one of all whenever it needs one. As many
// heads come at a time as the cache holds of a sequence; of these, tiles at the end of the sequence
// come first, where those are that see most keys.
class TileFinder {
 public:
  __device__ TileFinder(const PagedAttentionArgs& args, int32_t queries_min, TileQueue* queue)
      : args_(args),
        queries_min_(queries_min),
        queue_(queue),
        group_(args.num_q_heads / args.kv.num_kv_heads),
        lane_(threadIdx.x % 32) {
    int32_t longest = 1;
    for (int32_t i = lane_; i < args.num_sequences; i += 32) {
      const int32_t tiles = Tiles(i);
      if (tiles == 0) continue;
      total_ += tiles;
      longest = max(longest, args.sequences[i].context_len + args.sequences[i].query_len);
    }
    for (int32_t distance = 16; distance > 0; distance /= 2) {
      total_ += __shfl_xor_sync(kAllLanes, total_, distance);
      longest = max(longest, __shfl_xor_sync(kAllLanes, longest, distance));
    }
    const int64_t head_bytes = int64_t{4} * longest * args.kv.head_dim;
    heads_at_once_ = static_cast<int32_t>(
        min(max(kCachedBytes / head_bytes, int64_t{1}), int64_t{args.kv.num_kv_heads}));
  }

  // Without rows where there is none left; not called again then.
  __device__ Tile Next() {
    const int32_t item = Draw();
    Tile tile;
    if (item >= total_ * args_.kv.num_kv_heads) {
      Leave();
      return tile;
    }
    const int32_t first_head = item / (total_ * heads_at_once_) * heads_at_once_;
    const int32_t heads = min(heads_at_once_, args_.kv.num_kv_heads - first_head);
    const int32_t turn = item - first_head * total_;
    const int32_t wanted = total_ - 1 - turn / heads;
    int32_t before = 0;
    int32_t sequence = 0;
    for (int32_t first = 0;; first += 32) {
      const int32_t mine = Tiles(first + lane_);
      int32_t up_to = mine;
      for (int32_t distance = 1; distance < 32; distance *= 2) {
        const int32_t other = __shfl_up_sync(kAllLanes, up_to, distance);
        if (lane_ >= distance) up_to += other;
      }
      const uint32_t beyond = __ballot_sync(kAllLanes, before + up_to > wanted);
      if (beyond != 0) {
        const int32_t found = __ffs(static_cast<int32_t>(beyond)) - 1;
        sequence = first + found;
        before += __shfl_sync(kAllLanes, up_to - mine, found);
        break;
      }
      before += __shfl_sync(kAllLanes, up_to, 31);
    }
    tile.Set(args_.sequences[sequence], first_head + turn % heads, group_,
             (wanted - before) * kRows, kRows, args_.window);
    return tile;
  }

 private:
  // All ones count as -1.
  __device__ int32_t Draw() const {
    int32_t item = 0;
    if (lane_ == 0) item = static_cast<int32_t>(atomicAdd(&queue_->drawn, 1U) + 1);
    return __shfl_sync(kAllLanes, item, 0);
  }
  // The last block to leave makes the queue ready for the next launch.
  __device__ void Leave() const {
    if (lane_ != 0) return;
    __threadfence();
    if (atomicAdd(&queue_->left, 1U) + 2 == gridDim.x) *queue_ = {~0U, ~0U};
  }
  __device__ int32_t Tiles(int32_t sequence) const {
    return sequence < args_.num_sequences
               ? PrefillTiles(args_.sequences[sequence], group_, kRows, queries_min_)
               : 0;
  }

  const PagedAttentionArgs& args_;
  const int32_t queries_min_;
  TileQueue* const queue_;
  const int32_t group_;
  const int32_t lane_;
  int32_t total_ = 0;  // tiles of a head
  int32_t heads_at_once_ = 0;
};

// Where tiles are handed on. The warp that finds them is one ahead of the one it copies.
template <int kDim>
class TileBoard {
 public:
  __device__ TileBoard(Tile* tiles, const Memory<kDim>& memory) : tiles_(tiles), memory_(memory) {}

  // By the warp that finds them.
  __device__ void Post(const Tile& tile) {
    WaitPhase(memory_.TileEmpty(place_.index), place_.parity ^ 1);
    if (threadIdx.x % 32 == 0) {
      tiles_[place_.index] = tile;
      Arrive(memory_.TileFull(place_.index));
    }
    __syncwarp();
    place_.Advance();
  }
  // By every other warp; the last one has no rows.
  __device__ Tile Take() {
    WaitPhase(memory_.TileFull(place_.index), place_.parity);
    const Tile tile = tiles_[place_.index];
    __syncwarp();
    if (threadIdx.x % 32 == 0) Arrive(memory_.TileEmpty(place_.index));
    place_.Advance();
    return tile;
  }

 private:
  Tile* const tiles_;
  const Memory<kDim> memory_;
  Place<kBoarded> place_;
};

// Brings a tile's keys and values in; by the first warpgroup. A thread copies one block of the
// cache, and the blocks of a step go round the warps: a warp starts one copy after the other, and
// alone would be late. Blocks in which nothing is visible are replaced by ones that are there.
template <int kDim>
class StepCopier {
  using S = Shape<kDim>;

 public:
  __device__ StepCopier(const PagedAttentionArgs& args, const CUtensorMap* keys,
                        const CUtensorMap* values, const Memory<kDim>& memory)
      : kv_(args.kv), keys_(keys), values_(values), memory_(memory) {}

  __device__ void Copy(const Tile& tile) {
    const int32_t* table = kv_.block_tables + static_cast<int64_t>(tile.span.slot) * kv_.max_blocks;
    const int32_t row = tile.kv_head * kv_.block_tokens;
    const int32_t first_step = tile.keys.first / kKeys;
    const int32_t last_step = tile.keys.last / kKeys;
    const auto look_up = [&](int32_t step) {
      const int32_t position = step * kKeys + piece_ * kv_.block_tokens;
      return __ldg(table + min(max(position, tile.keys.first), tile.keys.last) / kv_.block_tokens);
    };
    int32_t block = look_up(first_step);
    for (int32_t step = first_step; step <= last_step; ++step) {
      const int32_t next_block = look_up(min(step + 1, last_step));
      WaitPhase(memory_.KeysEmpty(place_.index), place_.parity ^ 1);
      CopyTile(keys_, memory_.Keys(place_.index), row, block, memory_.KeysFull(place_.index));
      WaitPhase(memory_.ValuesEmpty(place_.index), place_.parity ^ 1);
      CopyTile(values_, memory_.Values(place_.index), row, block, memory_.ValuesFull(place_.index));
      place_.Advance();
      block = next_block;
    }
  }

 private:
  __device__ void CopyTile(const CUtensorMap* map, uint32_t to, int32_t row, int32_t block,
                           uint32_t full) const {
    if (threadIdx.x == 0) ArriveExpecting(full, S::kTileBytes);
    __syncwarp();
    if (piece_ * kv_.block_tokens >= kKeys) return;
#pragma unroll
    for (int32_t i = 0; i < S::kColumns; ++i) {
      CopyBox(to + i * S::kKeyColumnBytes + piece_ * kv_.block_tokens * 128, map, i * 64, row,
              block, full);
    }
  }

  const KvCacheView& kv_;
  const CUtensorMap* const keys_;
  const CUtensorMap* const values_;
  const Memory<kDim> memory_;
  const int32_t piece_ =
      static_cast<int32_t>(threadIdx.x % 32 * kCopyWarps + threadIdx.x / 32);  // of a step
  Place<kStages> place_;
};

}  // namespace fathom::kernels::cuda::hopper
