#pragma once

// What a checkpoint says about itself: config.json and generation_config.json, in one typed struct.
// Both dialects of config.json are read (`rope_theta`/`rope_scaling`/`torch_dtype` and
// `rope_parameters`/`dtype`). A field that changes the mathematics and is not implemented is an
// error that names the field: it is never ignored.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/domain.h"
#include "kernels/dtype.h"

namespace fathom::worker {

enum class LayerType : uint8_t { kFullAttention, kSlidingAttention };

enum class RopeKind : uint8_t { kDefault, kLinear, kLlama3, kYarn };

struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000;
  double factor = 1;
  int32_t original_max_positions = 0;
  double low_freq_factor = 1;   // llama3
  double high_freq_factor = 4;  // llama3
  double beta_fast = 32;        // yarn
  double beta_slow = 1;         // yarn
  bool truncate = true;         // yarn: correction bounds are rounded to whole dimensions
  double attention_scale = 1;   // yarn: multiplies cos and sin
};

// What generation_config.json proposes where a request says nothing.
struct SamplingDefaults {
  std::optional<float> temperature;  // 0 when do_sample is false
  std::optional<float> top_p;
  std::optional<int32_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
};

struct ModelConfig {
  std::string model_type;  // llama, mistral, qwen2, qwen3
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t max_context = 0;  // max_position_embeddings
  float rms_norm_eps = 1e-6F;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool output_bias = false;  // attention's output projection
  bool mlp_bias = false;
  bool qk_norm = false;
  int32_t sliding_window = 0;          // 0: none
  std::vector<LayerType> layer_types;  // [num_layers]
  RopeConfig rope;
  DType dtype = DType::kBF16;          // of the checkpoint, as the config names it
  std::vector<TokenId> eos_token_ids;  // merged from both files, ascending
  std::optional<TokenId> bos_token_id;
  SamplingDefaults default_sampling;
  std::string digest;  // SHA-256 of config.json's bytes, lower-case hex
};

// Reads the two texts; `generation_json` may be empty. Errors: InvalidArgument for a malformed or
// inconsistent file, Unimplemented for what this build cannot compute.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_json);

// The same from a checkpoint's folder.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder);

}  // namespace fathom::worker
