#pragma once

// What goes into the engine and what comes out: token ids only. Plain data, so that the link, the
// tests and the in-process evaluation feed the engine alike.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/block_hash.h"
#include "common/domain.h"

namespace fathom::worker {

// One choice of a request. A migrated choice brings the tokens it has already: they count as
// output, are not emitted again, and its next token has index tokens.size().
struct ChoiceStart {
  int32_t index = 0;
  std::vector<TokenId> tokens;
};

struct EngineRequest {
  std::string id;        // unique in the cluster
  uint32_t attempt = 1;  // a higher attempt of the same id supersedes a lower one
  std::vector<TokenId> prompt;
  std::vector<ChoiceStart> choices;
  SamplingParams sampling;
  StopConditions stop;
  LogprobParams logprobs;
  std::optional<GrammarSpec> grammar;
  int32_t priority = 0;       // 0 is the most urgent
  uint64_t tenant_hash = 0;   // the inbox is fair between tenants,
  int32_t tenant_weight = 1;  // in proportion to this
  std::string cache_salt;   // requests with other salts never share prefix blocks; a 32-byte secret
  int64_t deadline_ns = 0;  // on the engine's monotonic clock; 0: none
  int32_t adapter_id = kNoAdapter;
};

// New tokens of one choice, or its end, or both. The token that ends a choice (end of sequence or a
// stop id) is the last of its tokens and counts as usage; whoever makes text drops it. Requests
// with a deadline that passes end with kError.
struct SequenceOutput {
  std::string request_id;
  uint32_t attempt = 0;
  int32_t choice = 0;
  int32_t first_index = 0;  // index of tokens[0] in the choice's output
  std::vector<TokenId> tokens;
  std::vector<PositionLogprobs> logprobs;  // one a token, when asked for
  std::vector<PositionLogprobs>
      prompt_logprobs;  // prompt positions 1.., once, with the first tokens of choices[0] unless it
                        // was migrated with tokens
  FinishReason finish = FinishReason::kNone;
  std::string error;  // with kError
  // With kError: the request itself is at fault and would fail anywhere (its grammar, say).
  bool bad_request = false;
  int32_t cached_tokens =
      0;  // prompt tokens from the prefix cache; on the first output of the choice
};

enum class EngineState : uint8_t { kLoading, kReady, kDraining, kDead };

// A snapshot for heartbeats and metrics.
struct EngineStats {
  EngineState state = EngineState::kLoading;
  uint64_t steps = 0;
  int64_t step_deadline_ns =
      0;                // monotonic time by which the running step should be done; 0 while idle
  int32_t waiting = 0;  // sequences not yet computing
  int32_t running = 0;
  int32_t free_blocks = 0;  // free or evictable, smallest group
  int32_t total_blocks = 0;
  int64_t output_tokens = 0;  // since start
  int64_t prompt_tokens = 0;  // since start, cached ones included
  int64_t cached_tokens = 0;  // since start
  int64_t preemptions = 0;    // since start
  // Prompt tokens to compute of those who wait or have begun, without those the cache holds.
  int64_t queued_tokens = 0;
  double prefill_tokens_per_second = 0;  // while there are any, lately; 0: not known
  int64_t step_ns = 0;                   // of steps that compute no prompt, lately
};

// Takes all outputs of one step at once. Called on the engine thread: waits only to slow down an
// engine that is faster than what takes its outputs.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  virtual void OnStep(std::vector<SequenceOutput> outputs) = 0;
  // The engine is dead (sticky device error): nothing more will come.
  virtual void OnDead(const absl::Status& reason) = 0;
};

}  // namespace fathom::worker
