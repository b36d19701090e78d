#pragma once

// A device that computes nothing and takes the time a model says: real engine, scheduler, link and
// KV accounting above it, so that what the master costs can be measured without a GPU, and so that
// any token that goes missing on the way is noticed (cli/load/simulated_text.h says which token
// comes). Grammars, stop ids and sampling parameters are ignored; logprobs are empty.
//
// It keeps a shadow of the KV cache: every position of every block remembers the hash of the
// history that was written there. A sequence whose blocks hold somebody else's tokens ends the
// worker with an error instead of giving plausible text.

#include "absl/status/statusor.h"
#include "benchmarks/sim_worker/time_model.h"
#include "worker/device.h"

namespace fathom::worker {

// The model's config and tokenizer are read from the checkpoint's folder, so that masters take the
// worker for a real one; its weights are not.
Device MakeSimDevice(const TimeModel& time);

}  // namespace fathom::worker
