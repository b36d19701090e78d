#pragma once

// From a model's folder to an engine that serves it, by the worker's configuration: the checks
// before the weights are read, the plan of the memory, the KV cache, the engine. Thread safety: one
// thread at a time.

#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/random.h"
#include "fathom/config.pb.h"
#include "worker/device.h"
#include "worker/engine/request.h"
#include "worker/model_host.h"

namespace fathom::worker {

// The configured device, whether it holds models or not; none where the memory is the process's.
// With `trim`, what this process has freed there is given back first.
absl::StatusOr<std::optional<kernels::DeviceFacts>> DescribeDevice(const config::Worker& config,
                                                                   const Device& device, bool trim);

class ModelLoading {
 public:
  // `config` has its defaults filled in. What the engines put out goes to `sink`, which outlives
  // them, as `random` and `clock` do.
  ModelLoading(const config::Worker& config, Device device, Random* random, const Clock* clock,
               OutputSink* sink)
      : config_(config), device_(std::move(device)), random_(random), clock_(clock), sink_(sink) {}

  // NOT_FOUND when the model is not there, INVALID_ARGUMENT or UNIMPLEMENTED when this build cannot
  // run it, FAILED_PRECONDITION when it is another one than ordered, RESOURCE_EXHAUSTED when it
  // does not fit into what is free.
  absl::StatusOr<Loaded> Load(const LoadOrder& order, const ModelHost::Progress& progress);

  // For further models; `released`: after something was freed. 0 when that cannot be told.
  int64_t FreeMemory(bool released);

 private:
  const config::Worker config_;
  const Device device_;
  Random* const random_;
  const Clock* const clock_;
  OutputSink* const sink_;
};

}  // namespace fathom::worker
