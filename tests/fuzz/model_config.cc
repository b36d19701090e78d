// config.json and generation_config.json: a config that is taken holds together, so that what is
// computed from it neither divides by zero nor allocates without bound.

#include "worker/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "common/check.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "worker/model/rope.h"

namespace fathom::worker {
namespace {

void CheckConfig(const ModelConfig& config) {
  FATHOM_CHECK(config.vocab_size > 0 && config.hidden_size > 0 && config.intermediate_size > 0 &&
                   config.num_layers > 0 && config.max_context > 0,
               "a size of nothing");
  FATHOM_CHECK(config.num_heads > 0 && config.num_kv_heads > 0 && config.head_dim > 0, "no heads");
  FATHOM_CHECK(config.num_heads % config.num_kv_heads == 0, "heads that share no KV head");
  FATHOM_CHECK(config.layer_types.size() == static_cast<size_t>(config.num_layers), "layer types");
  FATHOM_CHECK(config.sliding_window >= 0, "a window of less than nothing");
  FATHOM_CHECK(std::isfinite(config.rms_norm_eps) && config.rms_norm_eps >= 0, "epsilon");
  FATHOM_CHECK(std::isfinite(config.rope.theta) && config.rope.theta > 0, "theta");
  FATHOM_CHECK(std::isfinite(config.rope.attention_scale), "attention scale");
  for (const float frequency : InverseFrequencies(config.rope, config.head_dim)) {
    FATHOM_CHECK(std::isfinite(frequency) && frequency >= 0, "frequency");
  }
  FATHOM_CHECK(std::is_sorted(config.eos_token_ids.begin(), config.eos_token_ids.end()), "eos");
  for (const TokenId id : config.eos_token_ids) FATHOM_CHECK(id >= 0, "eos");
}

}  // namespace

// config.json, a line `===`, generation_config.json.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const std::string_view config_json = input.Section("===");
  const auto config = ParseModelConfig(config_json, input.Rest());
  fuzz::CheckSound(0, config.status());
  if (config.ok()) CheckConfig(*config);
  return 0;
}

}  // namespace fathom::worker
