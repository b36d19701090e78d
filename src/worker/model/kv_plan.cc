#include "worker/model/kv_plan.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fathom::worker {

KvSpec MakeKvSpec(const ModelConfig& config, DType dtype, int32_t block_tokens) {
  const int64_t layer_bytes =
      int64_t{2} * config.num_kv_heads * config.head_dim * static_cast<int64_t>(SizeOf(dtype));
  KvGroup full;
  KvGroup sliding;
  sliding.kind = KvGroupKind::kSlidingWindow;
  sliding.window_tokens = config.sliding_window;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const bool slides = config.layer_types[layer] == LayerType::kSlidingAttention;
    KvGroup& group = slides ? sliding : full;
    group.layers.push_back(layer);
    group.bytes_per_token += layer_bytes;
  }
  KvSpec spec;
  spec.block_tokens = block_tokens;
  spec.dtype = dtype;
  if (!full.layers.empty()) spec.groups.push_back(full);
  if (!sliding.layers.empty()) spec.groups.push_back(sliding);
  return spec;
}

absl::StatusOr<KvPlan> PlanKv(const KvSpec& spec, int64_t bytes_available, int32_t max_context,
                              int32_t max_sequences) {
  if (max_context <= 0 || max_sequences <= 0 || spec.block_tokens <= 0 || spec.groups.empty()) {
    return absl::InvalidArgumentError("PlanKv: sizes must be positive");
  }
  KvPlan plan;
  plan.max_sequences = max_sequences;
  plan.max_blocks_per_sequence =
      static_cast<int32_t>((int64_t{max_context} + spec.block_tokens - 1) / spec.block_tokens);
  int64_t bytes_per_row = 0;  // one block in every group
  for (size_t group = 0; group < spec.groups.size(); ++group) {
    bytes_per_row += spec.BytesPerBlock(group);
  }
  const int64_t wanted = int64_t{plan.max_blocks_per_sequence} * max_sequences;
  const int64_t blocks = std::min({std::max<int64_t>(bytes_available, 0) / bytes_per_row, wanted,
                                   int64_t{std::numeric_limits<int32_t>::max()}});
  if (blocks < plan.max_blocks_per_sequence) {
    return absl::ResourceExhaustedError(
        absl::StrCat("KV cache: one sequence of ", max_context, " tokens needs ",
                     plan.max_blocks_per_sequence * bytes_per_row, " bytes, ", bytes_available,
                     " are available; lower the context length or give more memory"));
  }
  plan.num_blocks.assign(spec.groups.size(), static_cast<int32_t>(blocks));
  return plan;
}

}  // namespace fathom::worker
