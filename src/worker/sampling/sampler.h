#pragma once

// Turns logits into tokens, slot by slot, and keeps what must not wait for the host: each slot's
// parameters and its penalty counts. Thread safety: none; it belongs to the device thread.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/sampling.h"
#include "worker/sampling/sample_input.h"

namespace fathom::worker {

class Sampler {
 public:
  Sampler(int32_t max_slots, int32_t vocab_size);

  // `logits`: [logit_rows, vocab_size]. Writes the new token of every row to slot_tokens[slot] and
  // fills `output`. What is wrong with one row is that row's status; an error means the input
  // itself is inconsistent.
  absl::Status Run(const SampleInput& input, const float* logits, int32_t logit_rows,
                   std::span<TokenId> slot_tokens, SampleOutput* output);

 private:
  struct Slot {
    kernels::SamplingRow row{};  // everything but the fields of one step
    std::vector<int32_t> bias_tokens;
    std::vector<float> bias_values;
    std::vector<TokenId> end_tokens;
    std::vector<kernels::TokenCount> counts;
    int32_t num_counts = 0;
    int32_t min_tokens = 0;
  };

  void SetUp(const SlotSetup& setup);
  absl::Status Sample(const SampleInput& input, const float* logits, int32_t logit_rows,
                      std::span<TokenId> slot_tokens, SampleOutput* output);
  absl::Status Score(const SampleInput& input, const float* logits, int32_t logit_rows,
                     SampleOutput* output);
  PositionLogprobs TakeLogprobs(size_t first, TokenId chosen, int32_t count) const;

  const int32_t vocab_size_;
  std::vector<Slot> slots_;  // [max_slots]

  // Memory that runs reuse.
  kernels::cpu::SamplingScratch scratch_;
  std::vector<kernels::SamplingRow> rows_;
  std::vector<kernels::ScoringRow> score_rows_;
  std::vector<uint8_t> status_;
  std::vector<float> logprobs_;
  std::vector<int32_t> top_tokens_;
  std::vector<float> top_logprobs_;
};

}  // namespace fathom::worker
