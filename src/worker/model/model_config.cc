#include "worker/model/model_config.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "kernels/check_args.h"
#include "worker/model/json_fields.h"
#include "worker/model/rope.h"

namespace fathom::worker {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr int32_t kMaxVocab = 1 << 22;
constexpr int32_t kMaxWidth = kernels::kMaxRowDim / 2;  // gate and up are multiplied as one row
constexpr int32_t kMaxLayers = 1024;
constexpr int32_t kMaxHeads = 1024;
constexpr int32_t kMaxContext = 1 << 26;

// Fields that change the mathematics in models like these, and that nobody has implemented. Absent,
// null, false, 0 and an empty list are fine; `neutral` is one more value that is.
struct RefusedField {
  std::string_view name;
  double neutral = 0;
};
constexpr std::array kRefusedFields = {
    RefusedField{"quantization_config"},
    RefusedField{"compression_config"},
    RefusedField{"auto_map"},
    RefusedField{"partial_rotary_factor", 1},
    RefusedField{"rotary_pct", 1},
    RefusedField{"rope_interleaved"},
    RefusedField{"use_mrope"},
    RefusedField{"mrope_section"},
    RefusedField{"rope_local_base_freq"},
    RefusedField{"no_rope_layers"},
    RefusedField{"attn_logit_softcapping"},
    RefusedField{"attention_logit_softcapping"},
    RefusedField{"final_logit_softcapping"},
    RefusedField{"logit_scale", 1},
    RefusedField{"logits_scaling", 1},
    RefusedField{"query_pre_attn_scalar"},
    RefusedField{"attention_multiplier", 1},
    RefusedField{"embedding_multiplier", 1},
    RefusedField{"residual_multiplier", 1},
    RefusedField{"scale_depth"},
    RefusedField{"scale_emb", 1},
    RefusedField{"clip_qkv"},
    RefusedField{"alibi"},
    RefusedField{"attention_chunk_size"},
    RefusedField{"attention_sink"},
    RefusedField{"use_qk_norm"},
    RefusedField{"qk_layernorm"},
    RefusedField{"num_experts"},
    RefusedField{"num_local_experts"},
    RefusedField{"n_routed_experts"},
    RefusedField{"kv_lora_rank"},
    RefusedField{"is_encoder_decoder"},
    RefusedField{"add_cross_attention"},
    RefusedField{"vision_config"},
    RefusedField{"text_config"},
};

bool IsNeutral(const boost::json::value& value, double neutral) {
  switch (value.kind()) {
    case boost::json::kind::null:
      return true;
    case boost::json::kind::bool_:
      return !value.as_bool();
    case boost::json::kind::array:
      return value.as_array().empty();
    case boost::json::kind::object:
      return value.as_object().empty();
    case boost::json::kind::string:
      return value.as_string().empty();
    default: {
      const auto number = value.to_number<double>();
      return number == 0 || number == neutral;
    }
  }
}

absl::Status RefuseUnknownMathematics(const JsonFields& json) {
  for (const RefusedField& field : kRefusedFields) {
    const boost::json::value* value = json.Find(field.name);
    if (value != nullptr && !IsNeutral(*value, field.neutral)) {
      return json.NotImplemented(field.name, "this field");
    }
  }
  ASSIGN_OR_RETURN(const std::string activation, json.StringOr("hidden_act", "silu"));
  const std::string_view name = activation;
  if (name != "silu" && name != "swish") {
    return json.NotImplemented("hidden_act", name);
  }
  return absl::OkStatus();
}

absl::Status ParseSizes(const JsonFields& json, ModelConfig& out) {
  ASSIGN_OR_RETURN(out.vocab_size, json.Int("vocab_size", 1, kMaxVocab));
  ASSIGN_OR_RETURN(out.hidden_size, json.Int("hidden_size", 1, kMaxWidth));
  ASSIGN_OR_RETURN(out.intermediate_size, json.Int("intermediate_size", 1, kMaxWidth));
  ASSIGN_OR_RETURN(out.num_layers, json.Int("num_hidden_layers", 1, kMaxLayers));
  ASSIGN_OR_RETURN(out.num_heads, json.Int("num_attention_heads", 1, kMaxHeads));
  ASSIGN_OR_RETURN(out.num_kv_heads,
                   json.IntOr("num_key_value_heads", out.num_heads, 1, kMaxHeads));
  if (out.num_heads % out.num_kv_heads != 0) {
    return json.Wrong("num_key_value_heads", "does not divide num_attention_heads");
  }
  if (!json.Has("head_dim") && out.hidden_size % out.num_heads != 0) {
    return json.Wrong("num_attention_heads", "does not divide hidden_size");
  }
  // Qwen3's own default, where its config says nothing.
  const int32_t head_dim = out.model_type == "qwen3" ? 128 : out.hidden_size / out.num_heads;
  ASSIGN_OR_RETURN(out.head_dim, json.IntOr("head_dim", head_dim, 2, kernels::kMaxHeadDim));
  if (out.head_dim % 2 != 0) return json.Wrong("head_dim", "odd");
  if (int64_t{out.head_dim} * (out.num_heads + 2 * out.num_kv_heads) > kMaxWidth) {
    return json.Wrong("num_attention_heads", "too many for this head_dim");
  }
  ASSIGN_OR_RETURN(out.max_context, json.Int("max_position_embeddings", 1, kMaxContext));
  ASSIGN_OR_RETURN(const double eps, json.NumberOr("rms_norm_eps", 1e-6));
  if (eps < 0 || eps > 1) return json.Wrong("rms_norm_eps", "not in [0, 1]");
  out.rms_norm_eps = static_cast<float>(eps);
  ASSIGN_OR_RETURN(out.tie_word_embeddings, json.BoolOr("tie_word_embeddings", false));
  return absl::OkStatus();
}

// Which projections carry a bias and whether heads are normalised: fixed by the family, or by a
// field that the family reads.
absl::Status ParseFamily(const JsonFields& json, ModelConfig& out) {
  ASSIGN_OR_RETURN(const bool attention_bias, json.BoolOr("attention_bias", false));
  ASSIGN_OR_RETURN(const bool mlp_bias, json.BoolOr("mlp_bias", false));
  const std::string& family = out.model_type;
  if (family == "llama" || family == "qwen3") {
    out.qkv_bias = attention_bias;
    out.output_bias = attention_bias;
  } else if (family == "qwen2") {
    out.qkv_bias = true;
  } else if (family == "mistral") {
    if (attention_bias) return json.NotImplemented("attention_bias", "a bias in this family");
  } else {
    return json.NotImplemented("model_type", family.empty() ? "an empty name" : family);
  }
  if (mlp_bias && family != "llama") {
    return json.NotImplemented("mlp_bias", "a bias in this family");
  }
  out.mlp_bias = mlp_bias;
  out.qk_norm = family == "qwen3";
  return absl::OkStatus();
}

// The window that some or all layers use; 0 for none.
absl::StatusOr<int32_t> ParseWindow(const JsonFields& json, const ModelConfig& config) {
  constexpr int32_t kFamilyDefault = 4096;
  const bool is_null = json.object().contains("sliding_window") && !json.Has("sliding_window");
  if (config.model_type == "mistral") {
    return json.IntOr("sliding_window", is_null ? 0 : kFamilyDefault, 1, kMaxContext);
  }
  if (config.model_type == "llama") {
    if (json.Has("sliding_window")) {
      return json.NotImplemented("sliding_window", "a window in this family");
    }
    return 0;
  }
  ASSIGN_OR_RETURN(const bool use, json.BoolOr("use_sliding_window", false));
  if (!use) return 0;
  return json.IntOr("sliding_window", is_null ? 0 : kFamilyDefault, 1, kMaxContext);
}

absl::Status ParseLayerTypes(const JsonFields& json, ModelConfig& out) {
  ASSIGN_OR_RETURN(out.sliding_window, ParseWindow(json, out));
  ASSIGN_OR_RETURN(const int32_t max_window_layers,
                   json.IntOr("max_window_layers", 28, 0, kMaxContext));
  const bool every_layer = out.model_type == "mistral";
  for (int32_t layer = 0; layer < out.num_layers; ++layer) {
    const bool slides = out.sliding_window > 0 && (every_layer || layer >= max_window_layers);
    out.layer_types.push_back(slides ? LayerType::kSlidingAttention : LayerType::kFullAttention);
  }
  const boost::json::value* types = json.Find("layer_types");
  if (types == nullptr) return absl::OkStatus();
  if (!types->is_array() || types->as_array().size() != out.layer_types.size()) {
    return json.Wrong("layer_types", "not a list of num_hidden_layers names");
  }
  for (size_t i = 0; i < out.layer_types.size(); ++i) {
    const boost::json::value& type = types->as_array()[i];
    if (!type.is_string()) return json.Wrong("layer_types", "holds something else than names");
    const auto name = type.as_string();
    if (name == "full_attention") {
      // Mistral's own code gives every layer the window, whatever this list says.
      if (every_layer && out.sliding_window > 0) {
        return json.NotImplemented("layer_types", "full_attention beside sliding_window");
      }
      out.layer_types[i] = LayerType::kFullAttention;
    } else if (name == "sliding_attention") {
      if (out.sliding_window == 0) {
        return json.Wrong("layer_types", "sliding_attention without a sliding_window");
      }
      out.layer_types[i] = LayerType::kSlidingAttention;
    } else {
      return json.NotImplemented("layer_types", std::string_view(name.data(), name.size()));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseDType(const JsonFields& json, ModelConfig& out) {
  ASSIGN_OR_RETURN(const std::string old_name, json.StringOr("torch_dtype", "float32"));
  ASSIGN_OR_RETURN(const std::string name, json.StringOr("dtype", old_name));
  if (name == "float32" || name == "torch.float32") {
    out.dtype = DType::kF32;
  } else if (name == "bfloat16" || name == "torch.bfloat16") {
    out.dtype = DType::kBF16;
  } else if (name == "float16" || name == "torch.float16") {
    out.dtype = DType::kF16;
  } else {
    return json.NotImplemented("dtype", name);
  }
  return absl::OkStatus();
}

absl::Status AddEndTokens(const JsonFields& json, ModelConfig& out) {
  const boost::json::value* value = json.Find("eos_token_id");
  if (value == nullptr) return absl::OkStatus();
  boost::json::array ids;
  if (value->is_array()) {
    ids = value->as_array();
  } else {
    ids.push_back(*value);
  }
  for (const boost::json::value& id : ids) {
    const JsonFields one({{"eos_token_id", id}}, json.name());
    // Some checkpoints name ids that lie outside their vocabulary; those can never be sampled.
    ASSIGN_OR_RETURN(const int32_t token, one.Int("eos_token_id", -1, kMaxVocab));
    if (token >= 0 && token < out.vocab_size) out.eos_token_ids.push_back(token);
  }
  std::ranges::sort(out.eos_token_ids);
  // Not the one of std::ranges: clang-tidy 14 cannot read its result's type.
  out.eos_token_ids.erase(std::unique(out.eos_token_ids.begin(), out.eos_token_ids.end()),
                          out.eos_token_ids.end());
  return absl::OkStatus();
}

absl::StatusOr<std::optional<float>> OptionalFloat(const JsonFields& json, std::string_view field) {
  ASSIGN_OR_RETURN(const std::optional<double> value, json.OptionalNumber(field));
  if (!value) return std::nullopt;
  return static_cast<float>(*value);
}

absl::Status ParseSampling(const JsonFields& json, SamplingDefaults& out) {
  ASSIGN_OR_RETURN(out.temperature, OptionalFloat(json, "temperature"));
  ASSIGN_OR_RETURN(out.top_p, OptionalFloat(json, "top_p"));
  ASSIGN_OR_RETURN(out.min_p, OptionalFloat(json, "min_p"));
  ASSIGN_OR_RETURN(out.repetition_penalty, OptionalFloat(json, "repetition_penalty"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> top_k, json.OptionalInt("top_k", -1, kMaxVocab));
  if (top_k) out.top_k = static_cast<int32_t>(std::max<int64_t>(*top_k, 0));
  ASSIGN_OR_RETURN(const bool sample, json.BoolOr("do_sample", true));
  if (!sample) out.temperature = 0;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_json) {
  ASSIGN_OR_RETURN(const JsonFields json, JsonFields::Parse(config_json, "config.json"));
  ModelConfig out;
  ASSIGN_OR_RETURN(out.model_type, json.StringOr("model_type", ""));
  RETURN_IF_ERROR(ParseFamily(json, out));
  RETURN_IF_ERROR(RefuseUnknownMathematics(json));
  RETURN_IF_ERROR(ParseSizes(json, out));
  ASSIGN_OR_RETURN(out.rope, ParseRope(json, out.max_context));
  if (out.rope.kind == RopeKind::kYarn) {
    // Such configs often keep the context they were trained with; the scaling is there to go
    // beyond it.
    const double reach = out.rope.original_max_positions * out.rope.factor;
    out.max_context =
        std::max(out.max_context, static_cast<int32_t>(std::min<double>(reach, kMaxContext)));
  }
  RETURN_IF_ERROR(ParseLayerTypes(json, out));
  RETURN_IF_ERROR(ParseDType(json, out));
  RETURN_IF_ERROR(AddEndTokens(json, out));
  ASSIGN_OR_RETURN(const std::optional<int64_t> bos,
                   json.OptionalInt("bos_token_id", -1, kMaxVocab));
  if (bos && *bos >= 0) out.bos_token_id = static_cast<TokenId>(*bos);
  if (!generation_json.empty()) {
    ASSIGN_OR_RETURN(const JsonFields generation,
                     JsonFields::Parse(generation_json, "generation_config.json"));
    RETURN_IF_ERROR(AddEndTokens(generation, out));
    RETURN_IF_ERROR(ParseSampling(generation, out.default_sampling));
  }
  out.digest = Sha256Hex(config_json);
  return out;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string config, ReadFile(folder + "/config.json", kMaxConfigBytes));
  absl::StatusOr<std::string> generation =
      ReadFile(folder + "/generation_config.json", kMaxConfigBytes);
  if (!generation.ok() && !absl::IsNotFound(generation.status())) return generation.status();
  absl::StatusOr<ModelConfig> parsed = ParseModelConfig(config, generation.value_or(""));
  if (!parsed.ok()) {
    return absl::Status(parsed.status().code(),
                        absl::StrCat(folder, "/", parsed.status().message()));
  }
  return parsed;
}

}  // namespace fathom::worker
