#pragma once

// What the KV cache of a model looks like, for those who count blocks. Layers that keep the same
// kind of state form a group; each group has a block table and a block-id space of its own. A block
// holds `block_tokens` tokens of every layer of its group, contiguous in the arena (block-major),
// so that moving a block is one copy.

#include <cstdint>
#include <vector>

#include "kernels/dtype.h"

namespace fathom::worker {

enum class KvGroupKind : uint8_t { kFull, kSlidingWindow, kLatent, kState };

struct KvGroup {
  KvGroupKind kind = KvGroupKind::kFull;
  std::vector<int32_t> layers;
  int32_t window_tokens = 0;    // kSlidingWindow: a query sees this many tokens, itself included
  int64_t bytes_per_token = 0;  // all layers of the group, K and V
  int64_t scale_bytes_per_token = 0;  // quantised KV: the scale planes beside them
};

struct KvSpec {
  int32_t block_tokens = 16;
  DType dtype = DType::kF32;
  std::vector<KvGroup> groups;

  int64_t BytesPerBlock(size_t group) const {
    return (groups[group].bytes_per_token + groups[group].scale_bytes_per_token) * block_tokens;
  }
};

// What the engine decided to have: blocks of each group, and rows of persistent state.
struct KvPlan {
  std::vector<int32_t> num_blocks;  // [groups]
  int32_t max_sequences = 0;        // slots
  int32_t max_blocks_per_sequence = 0;
};

}  // namespace fathom::worker
