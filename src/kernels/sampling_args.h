#pragma once

// Arguments of the sampling ops, as plain data: nvcc sees this header too. The order in which a row
// is treated is a contract: logit_bias -> mask and banned ids -> repetition -> presence, frequency
// -> temperature -> top-k -> top-p -> min-p -> Gumbel-max over what is left. Ties go to the lower
// id. Pointers lie in the backend's memory.

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

// One distinct token of a slot's history.
struct TokenCount {
  int32_t token;
  int32_t in_prompt;  // 0 or 1
  int32_t in_output;  // how often
};

struct SamplingRow {
  int32_t logit_row;  // into logits
  int32_t slot;       // into slot_tokens
  uint64_t seed;
  uint32_t choice;
  uint32_t position;  // index of the new token in the choice's output
  float temperature;  // 0: argmax
  int32_t top_k;      // 0: off
  float top_p;        // 1: off
  float min_p;        // 0: off
  float presence_penalty;
  float frequency_penalty;
  float repetition_penalty;    // 1: off
  const int32_t* bias_tokens;  // [num_bias], distinct
  const float* bias_values;    // [num_bias]
  int32_t num_bias;
  int32_t num_banned;
  const int32_t* banned;  // [num_banned] ids that may not come now
  const uint32_t* mask;   // [ceil(vocab / 32)] set: allowed; null: all are
  TokenCount* counts;     // [counts_capacity] the op adds the chosen token; null: no penalties
  int32_t* num_counts;    // [1]
  int32_t counts_capacity;
  int32_t num_logprobs;  // -1: none; else the chosen token's and that many best
};

// RowStatus of worker/sampling, as the ops write it.
inline constexpr uint8_t kRowOk = 0;
inline constexpr uint8_t kRowNotFinite = 1;    // NaN or +infinity among the logits
inline constexpr uint8_t kRowNoCandidate = 2;  // masks leave no token

struct SamplingArgs {
  const void* logits;  // [num_logit_rows, vocab] of logits_dtype; not changed
  int32_t num_logit_rows;
  int32_t vocab;
  const SamplingRow* rows;  // [num_rows]
  int32_t num_rows;
  int32_t max_logprobs;              // width of the top_* outputs
  int32_t* slot_tokens;              // [slots] gets the chosen token (0 where the status is not ok)
  int32_t* tokens;                   // [num_rows] out
  uint8_t* status;                   // [num_rows] out
  float* logprobs;                   // [num_rows] out, log-softmax of the raw logits
  int32_t* top_tokens;               // [num_rows, max_logprobs] out, best first
  float* top_logprobs;               // [num_rows, max_logprobs] out
  DType logits_dtype = DType::kF32;  // or kBF16, on the GPU alone
  // [1 + num_rows] out, in ns of the device's clock: when the step's first operation began, and
  // when each row was done. Null: not asked for. The GPU's.
  uint64_t* clock = nullptr;
};

// Log-probabilities of given tokens.
struct ScoringRow {
  int32_t logit_row;
  int32_t target;
  int32_t num_logprobs;
};

struct ScoringArgs {
  const void* logits;  // [num_logit_rows, vocab] of logits_dtype
  int32_t num_logit_rows;
  int32_t vocab;
  const ScoringRow* rows;  // [num_rows]
  int32_t num_rows;
  int32_t max_logprobs;
  uint8_t* status;                   // [num_rows] out: kRowOk or kRowNotFinite
  float* logprobs;                   // [num_rows] out
  int32_t* top_tokens;               // [num_rows, max_logprobs] out
  float* top_logprobs;               // [num_rows, max_logprobs] out
  DType logits_dtype = DType::kF32;  // or kBF16, on the GPU alone
};

}  // namespace fathom::kernels
