#pragma once

// The benchmark itself: loads or makes the model, then measures cell by cell, each step beside a
// reading of memory and each prompt beside the peer's products.

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/bench/bench_options.h"
#include "worker/bench/bench_result.h"

namespace fathom::worker {

// `on_progress` hears what is being measured. Errors name the flag or the file.
absl::StatusOr<BenchResult> RunBench(const BenchOptions& options,
                                     const std::function<void(const std::string&)>& on_progress);

}  // namespace fathom::worker
