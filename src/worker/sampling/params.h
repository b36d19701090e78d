#pragma once

// The bounds of everything a request may ask of the sampler, in one place. Thread safety: pure.

#include <cstdint>

#include "absl/status/status.h"
#include "common/domain.h"

namespace fathom::worker {

inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr size_t kMaxLogitBias = 1024;
inline constexpr size_t kMaxStopTokenIds = 128;

// INVALID_ARGUMENT that names the parameter and its bounds. Ids must be in [0, vocab_size).
absl::Status ValidateSampling(const SamplingParams& params, int32_t vocab_size);
absl::Status ValidateStop(const StopConditions& stop, int32_t vocab_size);
absl::Status ValidateLogprobs(const LogprobParams& logprobs);

// A penalty reads the tokens so far (prompt and output, or output alone).
inline bool ReadsPrompt(const SamplingParams& p) { return p.repetition_penalty != 1; }
inline bool ReadsOutput(const SamplingParams& p) {
  return ReadsPrompt(p) || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

}  // namespace fathom::worker
