#pragma once

// How long a step takes on a device that is not there. Pure.

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/model/forward_input.h"

namespace fathom::worker {

struct TimeModel {
  double step_us = 0;             // of every step: reading the weights, launching
  double prefill_token_us = 0;    // of every token beyond a sequence's first
  double decode_sequence_us = 0;  // of every sequence
  double kv_bytes_per_token = 0;  // that attention reads for every token of context
  double kv_bytes_per_us = 1;

  int64_t StepNs(const ForwardInput& input) const;
};

// "free" (nothing costs anything) or "h200-8b" (a Llama-3.1-8B in BF16 on one H200: weights, FLOP
// and KV bytes over measured rates), then any number of `,field=number` that change it.
// INVALID_ARGUMENT names what is wrong.
absl::StatusOr<TimeModel> ParseTimeModel(std::string_view text);

}  // namespace fathom::worker
