#pragma once

// How many KV blocks a machine can have: pure arithmetic over a KvSpec. Thread safety: pure
// functions.

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/model/kv_spec.h"
#include "worker/model/model_config.h"

namespace fathom::worker {

// The cache a model needs: its full-attention layers in one group, its sliding ones in another.
KvSpec MakeKvSpec(const ModelConfig& config, DType dtype, int32_t block_tokens);

// As many blocks as `bytes_available` holds, the same number in every group, and no more than
// max_sequences sequences of max_context tokens could use. ResourceExhausted, with the figures,
// when not even one such sequence fits: then it could never run to its end.
absl::StatusOr<KvPlan> PlanKv(const KvSpec& spec, int64_t bytes_available, int32_t max_context,
                              int32_t max_sequences);

}  // namespace fathom::worker
