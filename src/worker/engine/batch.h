#pragma once

// Turns a plan into what the device reads. A Step's buffers are reused and stay unchanged from
// launch to retirement. Thread safety: none; the engine thread owns steps.

#include <cstdint>
#include <span>

#include "worker/engine/scheduler.h"
#include "worker/model/forward_input.h"
#include "worker/sampling/sample_input.h"

namespace fathom::worker {

struct Step {
  uint64_t serial = 0;
  StepPlan plan;
  ForwardInput forward;
  SampleInput sample;  // rows in the order of the sampling chunks, scores in that of all chunks
  bool has_grammar = false;  // its masks wait for the step before
  bool sample_launched = false;
  bool follows = false;  // launched while the step before was in flight
  int64_t launched_ns = 0;
};

// Fills `step` from `step->plan`. What the device knows already (block table entries, a slot's
// parameters) is not sent again: the sequences remember.
void WriteStep(uint64_t serial, Step* step);

}  // namespace fathom::worker
