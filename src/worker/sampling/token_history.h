#pragma once

// What penalties read of a choice: its distinct tokens, as the sampling ops keep them.

#include <cstdint>
#include <vector>

#include "kernels/sampling_args.h"
#include "worker/sampling/sample_input.h"

namespace fathom::worker {

// Fills `counts` with the distinct tokens of a choice so far, with room for every token it may
// still add. Returns how many there are.
int32_t CountHistory(const SlotSetup& setup, int32_t vocab_size,
                     std::vector<kernels::TokenCount>* counts);

}  // namespace fathom::worker
