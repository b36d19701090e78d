#include "worker/model/model_config.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "worker/model/rope.h"

namespace fathom::worker {
namespace {

namespace json = boost::json;

// A small config of `family` with `changes` laid over it.
std::string Config(const std::string& family, const std::string& changes = "{}") {
  json::object config = {
      {"model_type", family},           {"hidden_size", 64},        {"intermediate_size", 96},
      {"num_hidden_layers", 3},         {"num_attention_heads", 4}, {"num_key_value_heads", 2},
      {"max_position_embeddings", 512}, {"vocab_size", 128},        {"hidden_act", "silu"},
      {"torch_dtype", "bfloat16"},      {"sliding_window", nullptr}};
  const json::value parsed = json::parse(changes);
  for (const auto& [key, value] : parsed.as_object()) {
    config[key] = value;
  }
  return json::serialize(config);
}

ModelConfig Parse(const std::string& config, const std::string& generation = "") {
  auto parsed = ParseModelConfig(config, generation);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *parsed : ModelConfig{};
}

void ExpectRefused(const std::string& config, const std::string& field) {
  const auto parsed = ParseModelConfig(config, "");
  ASSERT_FALSE(parsed.ok()) << config;
  EXPECT_NE(Message(parsed.status()).find(field), std::string::npos) << parsed.status();
}

TEST(ModelConfigTest, FamiliesDifferInBiasesAndNorms) {
  const ModelConfig llama = Parse(Config("llama", R"({"attention_bias":true,"mlp_bias":true})"));
  EXPECT_TRUE(llama.qkv_bias && llama.output_bias && llama.mlp_bias && !llama.qk_norm);
  EXPECT_EQ(llama.head_dim, 16);
  const ModelConfig qwen2 = Parse(Config("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.qk_norm);
  const ModelConfig qwen3 = Parse(Config("qwen3", R"({"head_dim":32})"));
  EXPECT_TRUE(!qwen3.qkv_bias && qwen3.qk_norm);
  EXPECT_EQ(qwen3.head_dim, 32);
}

TEST(ModelConfigTest, BothDialectsSayTheSame) {
  const ModelConfig old_way = Parse(
      Config("llama",
             R"({"rope_theta":500000,"rope_scaling":{"type":"llama3","factor":8,"low_freq_factor":1,
          "high_freq_factor":4,"original_max_position_embeddings":64}})"));
  const ModelConfig new_way = Parse(Config("llama",
                                           R"({"torch_dtype":null,"dtype":"bfloat16",
          "rope_parameters":{"rope_theta":500000,"rope_type":"llama3","factor":8,
          "low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64}})"));
  EXPECT_EQ(old_way.dtype, DType::kBF16);
  EXPECT_EQ(new_way.dtype, DType::kBF16);
  EXPECT_EQ(old_way.rope.kind, RopeKind::kLlama3);
  EXPECT_EQ(InverseFrequencies(old_way.rope, 64), InverseFrequencies(new_way.rope, 64));
}

TEST(ModelConfigTest, FieldsThatChangeTheMathematicsAreRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"hidden_act", R"({"hidden_act":"gelu"})"},
      {"partial_rotary_factor", R"({"partial_rotary_factor":0.5})"},
      {"partial_rotary_factor", R"({"rope_parameters":{"partial_rotary_factor":0.25}})"},
      {"attn_logit_softcapping", R"({"attn_logit_softcapping":50.0})"},
      {"final_logit_softcapping", R"({"final_logit_softcapping":30})"},
      {"num_local_experts", R"({"num_local_experts":8})"},
      {"num_experts", R"({"num_experts":128})"},
      {"quantization_config", R"({"quantization_config":{"quant_method":"fp8"}})"},
      {"use_mrope", R"({"use_mrope":true})"},
      {"rope_interleaved", R"({"rope_interleaved":true})"},
      {"no_rope_layers", R"({"no_rope_layers":[1,0]})"},
      {"logit_scale", R"({"logit_scale":0.0625})"},
      {"auto_map", R"({"auto_map":{"AutoModel":"x.Y"}})"},
      {"rope_type", R"({"rope_scaling":{"type":"dynamic","factor":2}})"},
      {"rope_type", R"({"rope_parameters":{"rope_type":"longrope","factor":2}})"},
      {"mrope_section", R"({"rope_scaling":{"type":"default","mrope_section":[1,2]}})"},
      {"sliding_attention", R"({"rope_parameters":{"sliding_attention":{"rope_theta":1}}})"},
      {"chunked_attention", R"({"layer_types":["full_attention","chunked_attention",
                               "full_attention"]})"},
      {"dtype", R"({"torch_dtype":"float8_e4m3fn"})"},
      {"sliding_window", R"({"sliding_window":16})"},
  };
  for (const auto& [field, change] : cases) {
    SCOPED_TRACE(change);
    ExpectRefused(Config("llama", change), field);
  }
  ExpectRefused(Config("gemma3"), "model_type");
  ExpectRefused(Config("mistral", R"({"attention_bias":true})"), "attention_bias");
  ExpectRefused(Config("qwen3", R"({"mlp_bias":true})"), "mlp_bias");
}

TEST(ModelConfigTest, NeutralValuesOfSuchFieldsAreFine) {
  Parse(Config("llama", R"({"attn_logit_softcapping":null,"num_experts":0,"logit_scale":1.0,
      "quantization_config":null,"rope_interleaved":false,"partial_rotary_factor":1.0,
      "pretraining_tp":1,"rope_scaling":null,"use_cache":true,"is_llama_config":true})"));
}

TEST(ModelConfigTest, SizesThatMakeNoSenseAreRefused) {
  ExpectRefused(Config("llama", R"({"hidden_size":null})"), "hidden_size");
  ExpectRefused(Config("llama", R"({"hidden_size":-64})"), "hidden_size");
  ExpectRefused(Config("llama", R"({"hidden_size":1e18})"), "hidden_size");
  ExpectRefused(Config("llama", R"({"vocab_size":12.5})"), "vocab_size");
  ExpectRefused(Config("llama", R"({"num_key_value_heads":3})"), "num_key_value_heads");
  ExpectRefused(Config("llama", R"({"head_dim":33})"), "head_dim");
  ExpectRefused(Config("llama", R"({"head_dim":512})"), "head_dim");
  ExpectRefused(Config("llama", R"({"num_attention_heads":"4"})"), "num_attention_heads");
  ExpectRefused("[]", "config.json");
  ExpectRefused("{", "config.json");
}

TEST(ModelConfigTest, MistralSlidesInEveryLayer) {
  const ModelConfig windowed = Parse(Config("mistral", R"({"sliding_window":32})"));
  EXPECT_EQ(windowed.sliding_window, 32);
  EXPECT_EQ(windowed.layer_types[0], LayerType::kSlidingAttention);
  const ModelConfig full = Parse(Config("mistral"));
  EXPECT_EQ(full.sliding_window, 0);
  EXPECT_EQ(full.layer_types[2], LayerType::kFullAttention);
}

TEST(ModelConfigTest, QwenSlidesFromMaxWindowLayersWhenAsked) {
  const ModelConfig off = Parse(Config("qwen2", R"({"sliding_window":32,"max_window_layers":1})"));
  EXPECT_EQ(off.layer_types[2], LayerType::kFullAttention);
  const ModelConfig on = Parse(
      Config("qwen2", R"({"use_sliding_window":true,"sliding_window":32,"max_window_layers":1})"));
  EXPECT_EQ(on.layer_types[0], LayerType::kFullAttention);
  EXPECT_EQ(on.layer_types[1], LayerType::kSlidingAttention);
  const ModelConfig listed =
      Parse(Config("qwen3", R"({"use_sliding_window":true,"sliding_window":32,"layer_types":
               ["sliding_attention","full_attention","full_attention"]})"));
  EXPECT_EQ(listed.layer_types[0], LayerType::kSlidingAttention);
  EXPECT_EQ(listed.layer_types[2], LayerType::kFullAttention);
}

TEST(ModelConfigTest, EndTokensOfBothFilesMerge) {
  const ModelConfig config = Parse(Config("llama", R"({"eos_token_id":7})"),
                                   R"({"eos_token_id":[3,7,5],"temperature":0.6,"top_k":20})");
  EXPECT_EQ(config.eos_token_ids, (std::vector<TokenId>{3, 5, 7}));
  EXPECT_FLOAT_EQ(*config.default_sampling.temperature, 0.6F);
  EXPECT_EQ(*config.default_sampling.top_k, 20);
  const ModelConfig greedy = Parse(Config("llama"), R"({"do_sample":false,"temperature":0.6})");
  EXPECT_EQ(*greedy.default_sampling.temperature, 0);
}

TEST(ModelConfigTest, YarnReachesBeyondTheTrainedContext) {
  const ModelConfig config =
      Parse(Config("qwen3", R"({"rope_scaling":{"rope_type":"yarn","factor":4.0,
               "original_max_position_embeddings":512}})"));
  EXPECT_EQ(config.max_context, 2048);
  EXPECT_NEAR(config.rope.attention_scale, 0.1 * std::log(4.0) + 1, 1e-12);
}

TEST(ModelConfigTest, RopeThatGivesNoFrequenciesIsRefused) {
  const auto rope = [](const std::string& fields) {
    return Config("llama", absl::StrCat(R"({"rope_scaling":{)", fields, "}}"));
  };
  ExpectRefused(rope(R"("rope_type":"yarn","factor":4,"beta_fast":1e-320)"), "beta_fast");
  ExpectRefused(rope(R"("rope_type":"yarn","factor":4,"beta_slow":1e300)"), "beta_slow");
  ExpectRefused(rope(R"("rope_type":"yarn","factor":1e300,"mscale":1e308,"mscale_all_dim":1e308)"),
                "mscale");
  ExpectRefused(rope(R"("rope_type":"llama3","factor":4,"low_freq_factor":1,)"
                     R"("high_freq_factor":1.00000001)"),
                "high_freq_factor");
}

TEST(ModelConfigTest, TinyIsWhatItsCardSays) {
  const char* root = std::getenv("FATHOM_SOURCE_DIR");
  const auto config = LoadModelConfig(std::string(root) + "/models/tiny");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model_type, "qwen3");
  EXPECT_EQ(config->eos_token_ids, (std::vector<TokenId>{3195, 3197}));
  EXPECT_EQ(config->digest.size(), 64U);
  EXPECT_TRUE(absl::IsNotFound(LoadModelConfig(std::string(root) + "/nowhere").status()));
}

}  // namespace
}  // namespace fathom::worker
