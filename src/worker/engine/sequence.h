#pragma once

// One choice of a request while the engine has it, and the request it belongs to. Thread safety:
// none; the engine thread owns them.
//
// Lengths of a sequence, in tokens:
//   computed  <= scheduled   KV written by retired steps; and by launched ones as well
//   tokens.size()            tokens the host knows: prompt and committed output
//   length()                 the same and those that launched steps will sample
// A sequence has work to schedule while scheduled < length(); sampling happens with the chunk that
// reaches length().

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/block_hash.h"
#include "worker/engine/block_pool.h"
#include "worker/engine/request.h"
#include "worker/sampling/grammar.h"

namespace fathom::worker {

// Blocks of a sequence in one group: entry i holds tokens [i * block_tokens, ...). Entries behind
// a sliding window are empty.
struct BlockTable {
  std::vector<BlockRef> blocks;
  BlockRef copy_source;      // what the tail is copied from, until that step has retired
  int32_t num_sent = 0;      // entries the device knows
  int32_t num_released = 0;  // leading entries that slid out of the window
};

enum class SequenceState : uint8_t {
  kNew,      // unknown to the scheduler: its grammar is being compiled
  kWaiting,  // holds nothing
  kRunning,  // holds a slot and blocks
  kEnded,    // its end is reported; holds them until its last step retires
};

struct RequestState;

struct Sequence {
  RequestState* request = nullptr;
  int32_t choice = 0;
  SequenceState state = SequenceState::kNew;
  uint64_t rank = UINT64_MAX;  // by admission, within a priority: the lower, the older

  std::vector<TokenId> tokens;
  int32_t prompt_len = 0;
  int32_t max_len = 0;  // tokens it may have in all
  // Leading tokens that a worker which was lost had computed: computing them again is paced. 0: it
  // began here.
  int32_t recovery_len = 0;
  int32_t computed = 0;
  int32_t scheduled = 0;
  int32_t settled = 0;     // `scheduled` before the step that is being planned
  int32_t pending = 0;     // tokens that launched steps will sample
  uint64_t last_step = 0;  // the last step it is part of; 0: none since admission
  bool preempt = false;    // gives its blocks back as soon as its last step retired

  int32_t slot = -1;
  bool slot_ready = false;               // the sampler has its parameters
  std::vector<BlockTable> tables;        // [groups]
  std::vector<Hash128> block_hashes;     // of the leading full blocks of `tokens`
  int32_t num_cached_blocks = 0;         // leading blocks known to the prefix cache
  std::optional<int32_t> cached_tokens;  // of the first admission
  bool cached_reported = false;
  int32_t expected_tokens = 0;  // while it waits: what it will have to compute once admitted

  bool wants_prompt_logprobs = false;
  std::vector<PositionLogprobs> prompt_logprobs;  // of positions 1 ..
  std::unique_ptr<GrammarState> grammar;

  int32_t length() const { return static_cast<int32_t>(tokens.size()) + pending; }
  int32_t num_output() const { return static_cast<int32_t>(tokens.size()) - prompt_len; }
  // False while all it may have is known or under way.
  bool HasWork() const { return scheduled < length() && length() < max_len; }
  bool InFlight(uint64_t retired) const { return last_step > retired; }
};

struct RequestState {
  EngineRequest request;
  PrefixScope prefix_scope;
  std::vector<TokenId> end_tokens;   // end of sequence (unless ignored) and stop ids
  std::vector<TokenId> masked_ends;  // end of sequence and stop ids: masked up to min_tokens
  std::vector<std::unique_ptr<Sequence>> sequences;
  bool compiling = false;
  bool admitted = false;  // one of them has been: its prompt is in the statistics

  int32_t num_live() const {  // sequences that have not ended
    int32_t live = 0;
    for (const auto& s : sequences) live += s->state != SequenceState::kEnded ? 1 : 0;
    return live;
  }
};

}  // namespace fathom::worker
