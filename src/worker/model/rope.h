#pragma once

// Rotary embedding: what a config says about it, and the inverse frequencies that follow. Scaling
// as published for Llama 3.1 and YaRN (arXiv:2309.00071), computed in FP32 as the checkpoints'
// authors did.

#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/json_fields.h"
#include "worker/model/model_config.h"

namespace fathom::worker {

// Reads `rope_parameters`, or `rope_theta` with `rope_scaling`. A type or field that is not
// implemented is an error.
absl::StatusOr<RopeConfig> ParseRope(const JsonFields& config, int32_t max_positions);

// [head_dim / 2]
std::vector<float> InverseFrequencies(const RopeConfig& rope, int32_t head_dim);

}  // namespace fathom::worker
