#pragma once

// The sampler of a device that works behind its caller's back: a slot's parameters and counts live
// in its memory, a step's rows travel there in one copy, and the tokens come back into pinned
// memory while nobody waits. The same contract as Sampler.
//
// Thread safety: Launch belongs to the device thread; Collect may run on another one, for a step
// whose Launch has returned.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/sampling/sample_input.h"

namespace fathom::worker {

class DeviceSampler {
 public:
  // Steps whose results may be outstanding at once.
  static constexpr size_t kSteps = 3;

  // The backend has a queue and outlives the sampler. At most `max_logit_rows` rows are sampled and
  // scored in one step.
  static absl::StatusOr<std::unique_ptr<DeviceSampler>> Create(kernels::Backend* backend,
                                                               int32_t max_slots,
                                                               int32_t max_logit_rows,
                                                               int32_t vocab_size);

  struct Logits {
    const float* data = nullptr;  // [rows, vocab_size], device
    int32_t rows = 0;
  };
  // `input` may change once this returned.
  absl::Status Launch(uint64_t step, const SampleInput& input, const Logits& logits,
                      std::span<TokenId> slot_tokens);
  // Waits for the step.
  absl::Status Collect(uint64_t step, SampleOutput* output);

 private:
  // A choice's lists, in one piece of device memory, and its parameters with pointers into it.
  struct Slot {
    kernels::SamplingRow row{};
    kernels::DeviceBuffer lists;
    const int32_t* end_tokens = nullptr;  // device
    int32_t num_end_tokens = 0;
    int32_t min_tokens = 0;
  };
  // What a launch was asked, for Collect, and where its answer comes.
  struct Pending {
    std::unique_ptr<kernels::Mark> done;
    std::unique_ptr<kernels::PinnedBuffer> answer;
    std::vector<int32_t> row_logprobs;  // [rows] num_logprobs
    std::vector<ScoreRow> scores;
    int32_t row_width = 0;    // of the rows' best ones
    int32_t score_width = 0;  // of the scores'
  };
  // Of up to so many rows, in one piece: the clock, tokens, status, logprobs, best tokens, their
  // logprobs.
  struct Answer;

  DeviceSampler(kernels::Backend* backend, int32_t max_slots, int32_t max_logit_rows,
                int32_t vocab_size);
  absl::Status Allocate();
  absl::Status SetUp(const SlotSetup& setup);
  absl::Status Sample(const SampleInput& input, const Logits& logits,
                      std::span<TokenId> slot_tokens, Pending* pending);
  absl::Status Score(const SampleInput& input, const Logits& logits, Pending* pending);
  // Grows `buffer` to `bytes` at least; what it held is gone.
  absl::Status Reserve(size_t bytes, kernels::DeviceBuffer* buffer);

  kernels::Backend* const backend_;
  const int32_t max_rows_;
  const int32_t vocab_size_;
  std::vector<Slot> slots_;
  std::array<Pending, kSteps> pending_;
  kernels::DeviceBuffer rows_;    // SamplingRow [max_rows]
  kernels::DeviceBuffer scores_;  // ScoringRow [max_rows]
  kernels::DeviceBuffer masks_;   // as many as a step had at most
  std::vector<kernels::SamplingRow> host_rows_;
  std::vector<kernels::ScoringRow> host_scores_;
  std::vector<char> staged_;
};

}  // namespace fathom::worker
