#pragma once

// What a Forward relies on, checked before anything is touched. A mistake of the engine becomes an
// error of one step, never a read outside an array.

#include "absl/status/status.h"
#include "worker/model/forward_input.h"

namespace fathom::worker {

struct ForwardLimits {
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t max_sequences = 0;
  int32_t max_step_tokens = 0;
  int32_t max_logit_rows = 0;
};

absl::Status CheckForwardInput(const ForwardInput& input, const ForwardLimits& limits);

}  // namespace fathom::worker
