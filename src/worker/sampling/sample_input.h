#pragma once

// One launch of the sampler: which logit rows become tokens, and how. Like ForwardInput it is a
// delta: a slot's parameters travel once, with the first step that samples for it; penalty counts
// and the last token live with the sampler, since step n+1 is launched before the host knows the
// token of step n.

#include <cstdint>
#include <vector>

#include "common/domain.h"

namespace fathom::worker {

// Gives a slot to a choice; replaces whatever was there.
struct SlotSetup {
  int32_t slot = 0;
  int32_t choice = 0;  // keys the random numbers together with the seed and the token's index
  SamplingParams params;
  int32_t min_tokens = 0;           // `end_tokens` are masked while the output is shorter
  std::vector<TokenId> end_tokens;  // end of sequence and stop ids
  int32_t num_logprobs = -1;        // -1: none, else the chosen token's and that many best
  int32_t max_output = 0;           // tokens the choice may have in all, `output` included
  std::vector<TokenId> prompt;      // only where a penalty reads it
  std::vector<TokenId> output;      // likewise: tokens the choice has already
};

struct SampleRow {
  int32_t slot = 0;
  int32_t logit_row = 0;  // row of the logits
  int32_t position = 0;   // index of the new token in the choice's output
  int32_t mask = -1;      // row of SampleInput::masks; -1: every token is allowed
  bool may_end = false;   // end tokens are not masked, whatever min_tokens says
};

// A prompt position to score: the log-probability of the token that follows it.
struct ScoreRow {
  int32_t logit_row = 0;
  TokenId target = 0;
  int32_t num_logprobs = 0;  // best ones beside it
};

struct SampleInput {
  std::vector<SlotSetup> setups;  // applied first
  std::vector<SampleRow> rows;
  std::vector<ScoreRow> scores;
  int32_t mask_words = 0;
  std::vector<uint32_t> masks;  // [num_masks, mask_words], 32 ids a word, set: allowed

  void Clear() {
    setups.clear();
    rows.clear();
    scores.clear();
    mask_words = 0;
    masks.clear();
  }
};

enum class RowStatus : uint8_t {
  kOk,
  kNotFinite,    // NaN or +infinity among the logits
  kNoCandidate,  // the masks leave no token
};

// What one row gave: tokens [first_token, first_token + num_tokens) of the output. One token today;
// speculation gives more.
struct SampledRow {
  RowStatus status = RowStatus::kOk;
  int32_t first_token = 0;
  int32_t num_tokens = 0;
};

struct SampleOutput {
  std::vector<SampledRow> rows;  // as SampleInput::rows
  std::vector<TokenId> tokens;
  std::vector<PositionLogprobs> logprobs;  // as `tokens`; empty entries where not asked for
  std::vector<PositionLogprobs> scores;    // as SampleInput::scores
  std::vector<RowStatus> score_status;
  // When the device began with the step and was done with it, by its own clock; 0: not known.
  int64_t device_began_ns = 0;
  int64_t device_ended_ns = 0;

  void Clear() {
    rows.clear();
    tokens.clear();
    logprobs.clear();
    scores.clear();
    score_status.clear();
    device_began_ns = 0;
    device_ended_ns = 0;
  }
};

}  // namespace fathom::worker
