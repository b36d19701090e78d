#pragma once

// One step of the device, as a flat delta: everything a rank needs to run forward n, and nothing it
// already has. The engine writes it, the model reads it; blocks are ids here and bytes in the
// model. It could be sent to follower ranks as it is. The model keeps per-slot state between steps:
// block tables and the last sampled token.

#include <cstdint>
#include <vector>

#include "common/domain.h"

namespace fathom::worker {

using BlockId = int32_t;

// In token_ids: take the token that the last sample step wrote for this sequence's slot (the host
// may not know it yet).
inline constexpr TokenId kTokenFromSlot = -1;

struct SequenceInput {
  int32_t slot = 0;             // persistent row, [0, max_sequences)
  int32_t first_token = 0;      // into token_ids
  int32_t query_len = 0;        // >= 1
  int32_t context_len = 0;      // tokens whose KV is in the cache before this step
  int32_t first_logit_row = 0;  // into logit_rows
  int32_t num_logit_rows = 0;   // 0 for a prefill chunk that is not the last
  int32_t adapter_id = -1;      // -1: none
};

// tables[group][slot][first_index ...] = block_ids[first_block ... + num_blocks). Applied before
// the forward.
struct BlockTableUpdate {
  int32_t slot = 0;
  int32_t group = 0;
  int32_t first_index = 0;
  int32_t first_block = 0;
  int32_t num_blocks = 0;
};

// Copies a whole block before the forward reads or writes it (copy-on-write tails of n > 1).
struct BlockCopy {
  int32_t group = 0;
  BlockId source = 0;
  BlockId destination = 0;
};

// Rows [first_token, first_token + num_tokens) take their input embedding from `embeddings` at row
// `first_row` instead of the embedding table.
struct EmbeddingSpan {
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  int32_t first_row = 0;
};

struct ForwardInput {
  uint64_t step = 0;                     // serial of the step, from 1
  std::vector<TokenId> token_ids;        // [num_tokens]
  int32_t num_position_rows = 1;         // 1, or 3 for multimodal rotary embedding
  std::vector<int32_t> positions;        // [num_position_rows, num_tokens]
  std::vector<SequenceInput> sequences;  // [num_sequences], tokens in this order
  std::vector<int32_t> logit_rows;       // [num_logit_rows] index into token_ids
  std::vector<BlockTableUpdate> table_updates;
  std::vector<BlockId> block_ids;
  std::vector<BlockCopy> copies;
  std::vector<EmbeddingSpan> embedding_spans;
  std::vector<float> embeddings;  // [rows, hidden]

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
};

}  // namespace fathom::worker
