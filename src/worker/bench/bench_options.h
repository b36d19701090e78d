#pragma once

// The command line of `fathom-worker bench`.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace fathom::worker {

struct BenchOptions {
  std::string model;  // a checkpoint's folder, or empty
  std::string shape;  // a name of model_shapes.h, or empty
  std::string dtype = "auto";
  std::string json_path;
  int32_t threads = 0;  // 0: one a core
  bool batch_invariant = false;
  std::vector<int32_t> batches = {1, 4, 16};
  std::vector<int32_t> contexts = {128, 2048};
  std::vector<int32_t> prompts = {128, 512, 2048};
  absl::Duration per_cell = absl::Seconds(2);
  absl::Duration limit = absl::Seconds(300);
  bool exit_with_parent = false;
};

// INVALID_ARGUMENT for wrong flags (said on stderr already), CANCELLED when it asked only for what
// was printed. `argv[0]` is the program's name.
absl::StatusOr<BenchOptions> ParseBenchOptions(int argc, const char* const* argv);

}  // namespace fathom::worker
