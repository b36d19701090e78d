#pragma once

// The device as the engine sees it: steps are launched in order and awaited in order. A step is two
// launches, forward and sample, so that the next forward can run while the host still prepares the
// sampling (a grammar's mask needs the token before). One device thread per rank stands behind it,
// on the CPU too.
//
// Contract: LaunchForward(1), LaunchSample(1), LaunchForward(2), ... strictly in turn, and Await(n)
// some time after LaunchSample(n), also in turn. Inputs are read until Await(n) returned: the
// caller keeps them alive and unchanged. Thread safety: one caller.

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/model/forward_input.h"
#include "worker/model/model.h"
#include "worker/sampling/sample_input.h"

namespace fathom::worker {

class Executor {
 public:
  virtual ~Executor() = default;

  // Neither waits for the device.
  virtual void LaunchForward(const ForwardInput& input) = 0;
  virtual void LaunchSample(uint64_t step, const SampleInput& input) = 0;

  // Waits for the step; the output is valid until the next Await. An error is sticky: the device
  // is lost.
  virtual absl::StatusOr<const SampleOutput*> Await(uint64_t step) = 0;

  // `callback` hears, on a thread of the executor's, of a device that is lost while no step runs.
  // It may have heard by the time this returns, and may hear twice; null: no more after that.
  virtual void WhenLost(std::function<void(const absl::Status&)> callback) { (void)callback; }
};

// Runs `model` and a sampler for `max_sequences` slots on a thread of its own. `model` has its KV
// allocated. RESOURCE_EXHAUSTED when the device has no memory for the sampler.
absl::StatusOr<std::unique_ptr<Executor>> MakeModelExecutor(std::unique_ptr<Model> model,
                                                            int32_t max_sequences);

}  // namespace fathom::worker
