#pragma once

// The bytes behind block ids: one arena, block-major, and a block table for every group. Thread
// safety: none.
//
// Invariants: every id in a table is -1 (none) or below the group's number of blocks.

#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "worker/model/forward_input.h"
#include "worker/model/kv_spec.h"

namespace fathom::worker {

class KvCache {
 public:
  // The backend outlives the cache.
  KvCache(kernels::Backend* backend, KvSpec spec, int32_t num_kv_heads, int32_t head_dim);

  const KvSpec& spec() const { return spec_; }
  const KvPlan& plan() const { return plan_; }
  bool allocated() const { return plan_.max_sequences > 0; }

  absl::Status Allocate(const KvPlan& plan);

  // Applies table updates, then block copies. On an error nothing has changed.
  absl::Status Apply(const ForwardInput& input);

  // Fails unless blocks are there for every position this step of the sequence reads or writes.
  absl::Status CheckCovered(const SequenceInput& sequence) const;

  kernels::KvCacheView View(int32_t layer) const;
  // 0: the layer sees everything.
  int32_t WindowOf(int32_t layer) const;

 private:
  struct Place {
    size_t group = 0;
    int64_t index_in_group = 0;
  };
  absl::Status CheckUpdates(const ForwardInput& input) const;
  absl::Status UpdateTable(size_t group, const ForwardInput& input);
  absl::Status CopyBlocksOf(int32_t group, const ForwardInput& input);
  char* ArenaOf(size_t group) const { return arena_.as<char>() + arena_offsets_[group]; }
  size_t TableIndex(int32_t slot, int32_t index) const {
    return static_cast<size_t>(slot) * plan_.max_blocks_per_sequence + index;
  }

  kernels::Backend* const backend_;
  const KvSpec spec_;
  const int32_t num_kv_heads_;
  const int32_t head_dim_;
  std::vector<Place> places_;  // [layers]
  KvPlan plan_;
  kernels::DeviceBuffer arena_;
  std::vector<size_t> arena_offsets_;              // [groups]
  std::vector<kernels::DeviceBuffer> tables_;      // [groups] of [slots, max_blocks]
  std::vector<std::vector<BlockId>> host_tables_;  // the same, to check against
  kernels::DeviceBuffer updates_;                  // [2, kUpdatesMax]: table entries, ids
  kernels::DeviceBuffer copy_sources_;
  kernels::DeviceBuffer copy_destinations_;
};

}  // namespace fathom::worker
