#pragma once

// What a worker runs its steps on. The functions belong together: `make_executor` gets what `load`
// made, its KV allocated, and `describe` tells what both take memory of. A worker loads several
// models, one after the other, and runs them side by side. fathom-worker takes the defaults; the
// simulated device of the benchmarks brings its own.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "worker/engine/executor.h"
#include "worker/model/model.h"

namespace fathom::worker {

struct Device {
  std::function<absl::StatusOr<std::unique_ptr<Model>>(const ModelOptions&)> load = LoadModel;
  std::function<absl::StatusOr<std::unique_ptr<Executor>>(std::unique_ptr<Model>,
                                                          int32_t max_sequences)>
      make_executor = MakeModelExecutor;
  std::function<absl::StatusOr<std::optional<kernels::DeviceFacts>>(const ModelOptions&, bool trim)>
      describe = DescribeDevice;
};

}  // namespace fathom::worker
