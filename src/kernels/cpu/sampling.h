#pragma once

// Sampling on the CPU: clear code, the oracle of the other backends. The contract is in
// kernels/sampling_args.h. Thread safety: a scratch belongs to one call at a time.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/sampling_args.h"

namespace fathom::kernels::cpu {

struct Candidate {
  float logit;
  int32_t id;
  float weight;
};

// Memory that calls reuse.
struct SamplingScratch {
  std::vector<float> logits;          // [vocab]
  std::vector<Candidate> candidates;  // <= vocab
};

// INVALID_ARGUMENT for rows outside the logits; what is wrong with one row's logits is its status.
absl::Status SampleTokens(const SamplingArgs& args, SamplingScratch* scratch);
absl::Status ScoreTokens(const ScoringArgs& args);

}  // namespace fathom::kernels::cpu
