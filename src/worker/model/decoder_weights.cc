#include "worker/model/decoder_weights.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/model/rope.h"

namespace fathom::worker {
namespace {

absl::Status LoadAttention(const ModelConfig& config, const WeightReader& reader,
                           const std::string& prefix, DecoderLayer& layer) {
  const int64_t hidden = config.hidden_size;
  const int64_t q_rows = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_rows = int64_t{config.num_kv_heads} * config.head_dim;
  ASSIGN_OR_RETURN(layer.qkv, reader.Matrix(std::vector<MatrixSource>{
                                  {prefix + "q_proj.weight", q_rows, hidden, {}},
                                  {prefix + "k_proj.weight", kv_rows, hidden, {}},
                                  {prefix + "v_proj.weight", kv_rows, hidden, {}}}));
  ASSIGN_OR_RETURN(
      layer.output,
      reader.Matrix(std::vector<MatrixSource>{{prefix + "o_proj.weight", hidden, q_rows, {}}}));
  if (config.qkv_bias) {
    ASSIGN_OR_RETURN(layer.qkv_bias, reader.Vector(std::vector<VectorSource>{
                                         {prefix + "q_proj.bias", q_rows, {}},
                                         {prefix + "k_proj.bias", kv_rows, {}},
                                         {prefix + "v_proj.bias", kv_rows, {}}}));
  }
  if (config.output_bias) {
    ASSIGN_OR_RETURN(
        layer.output_bias,
        reader.Vector(std::vector<VectorSource>{{prefix + "o_proj.bias", hidden, {}}}));
  }
  if (config.qk_norm) {
    ASSIGN_OR_RETURN(
        layer.q_norm,
        reader.Vector(std::vector<VectorSource>{{prefix + "q_norm.weight", config.head_dim, {}}}));
    ASSIGN_OR_RETURN(
        layer.k_norm,
        reader.Vector(std::vector<VectorSource>{{prefix + "k_norm.weight", config.head_dim, {}}}));
  }
  return absl::OkStatus();
}

absl::Status LoadMlp(const ModelConfig& config, const WeightReader& reader,
                     const std::string& prefix, DecoderLayer& layer) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  ASSIGN_OR_RETURN(layer.gate_up, reader.Matrix(std::vector<MatrixSource>{
                                      {prefix + "gate_proj.weight", inner, hidden, {}},
                                      {prefix + "up_proj.weight", inner, hidden, {}}}));
  ASSIGN_OR_RETURN(
      layer.down,
      reader.Matrix(std::vector<MatrixSource>{{prefix + "down_proj.weight", hidden, inner, {}}}));
  if (!config.mlp_bias) return absl::OkStatus();
  ASSIGN_OR_RETURN(layer.gate_up_bias,
                   reader.Vector(std::vector<VectorSource>{{prefix + "gate_proj.bias", inner, {}},
                                                           {prefix + "up_proj.bias", inner, {}}}));
  ASSIGN_OR_RETURN(
      layer.down_bias,
      reader.Vector(std::vector<VectorSource>{{prefix + "down_proj.bias", hidden, {}}}));
  return absl::OkStatus();
}

absl::StatusOr<DecoderLayer> LoadLayer(const ModelConfig& config, const WeightReader& reader,
                                       int32_t index) {
  DecoderLayer layer;
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  ASSIGN_OR_RETURN(layer.input_norm,
                   reader.Vector(std::vector<VectorSource>{
                       {prefix + "input_layernorm.weight", config.hidden_size, {}}}));
  ASSIGN_OR_RETURN(layer.post_norm,
                   reader.Vector(std::vector<VectorSource>{
                       {prefix + "post_attention_layernorm.weight", config.hidden_size, {}}}));
  RETURN_IF_ERROR(LoadAttention(config, reader, prefix + "self_attn.", layer));
  RETURN_IF_ERROR(LoadMlp(config, reader, prefix + "mlp.", layer));
  return layer;
}

}  // namespace

absl::StatusOr<DecoderWeights> LoadDecoderWeights(const ModelConfig& config,
                                                  const TensorSource& source, DType compute_dtype,
                                                  kernels::Backend& backend) {
  const WeightReader reader(&source, &backend, compute_dtype);
  DecoderWeights weights;
  const MatrixSource embedding = {
      "model.embed_tokens.weight", config.vocab_size, config.hidden_size, {}};
  ASSIGN_OR_RETURN(weights.embedding, reader.Table(embedding));
  for (int32_t i = 0; i < config.num_layers; ++i) {
    ASSIGN_OR_RETURN(DecoderLayer layer, LoadLayer(config, reader, i));
    weights.layers.push_back(std::move(layer));
  }
  ASSIGN_OR_RETURN(
      weights.final_norm,
      reader.Vector(std::vector<VectorSource>{{"model.norm.weight", config.hidden_size, {}}}));
  MatrixSource head = embedding;
  if (!config.tie_word_embeddings) head.tensor = "lm_head.weight";
  ASSIGN_OR_RETURN(weights.lm_head, reader.Matrix(std::vector<MatrixSource>{head}));

  const std::vector<float> frequencies = InverseFrequencies(config.rope, config.head_dim);
  const size_t bytes = frequencies.size() * sizeof(float);
  ASSIGN_OR_RETURN(weights.inv_freq, backend.Allocate(bytes));
  RETURN_IF_ERROR(backend.CopyFromHost(weights.inv_freq.data(), frequencies.data(), bytes));
  return weights;
}

}  // namespace fathom::worker
