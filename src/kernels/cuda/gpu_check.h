#pragma once

// Whether this machine has a GPU that this build runs on; if not, what was found instead and what
// helps. What CUDA says is collected first and judged by pure functions, so that every failure can
// be tried without the machine that has it.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace fathom::kernels::cuda {

struct GpuDescription {
  std::string name;
  int32_t major = 0;  // compute capability
  int32_t minor = 0;
  cudaError_t error = cudaSuccess;  // of asking for these
};

struct GpuSurvey {
  int32_t driver = 0;  // the newest CUDA that the driver knows, 13000 for 13.0; 0: no driver
  cudaError_t counting = cudaSuccess;
  std::vector<GpuDescription> gpus;
  std::optional<std::string> visible;  // the environment's CUDA_VISIBLE_DEVICES
};

GpuSurvey SurveyGpus();

// FAILED_PRECONDITION unless GPU `ordinal` is there and of a kind that this build has code for.
absl::Status CheckGpu(const GpuSurvey& survey, int32_t ordinal);

// OK for cudaSuccess. What went wrong at the first use of a GPU, in words that say what to do.
absl::Status ExplainGpuError(const GpuSurvey& survey, int32_t ordinal, cudaError_t error);

}  // namespace fathom::kernels::cuda
