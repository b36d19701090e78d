#include "worker/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "worker/model/forward_check.h"
#include "worker/model/kv_plan.h"

namespace fathom::worker {
namespace {

// Slots, positions and the rest of a token: four numbers; a sequence has a token at least.
constexpr size_t StepBytes(size_t tokens, size_t rows) {
  return tokens * (4 * sizeof(int32_t) + sizeof(kernels::SequenceSpan)) + rows * sizeof(int32_t);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(std::unique_ptr<kernels::Backend> backend,
                                                         ModelConfig config,
                                                         const TensorSource& source, DType dtype,
                                                         const Limits& limits) {
  ASSIGN_OR_RETURN(DecoderWeights weights, LoadDecoderWeights(config, source, dtype, *backend));
  std::unique_ptr<Decoder> decoder(
      new Decoder(std::move(backend), std::move(config), dtype, limits, std::move(weights)));
  RETURN_IF_ERROR(decoder->AllocateScratch());
  return decoder;
}

Decoder::Decoder(std::unique_ptr<kernels::Backend> backend, ModelConfig config, DType dtype,
                 const Limits& limits, DecoderWeights weights)
    : backend_(std::move(backend)),
      config_(std::move(config)),
      dtype_(dtype),
      limits_(limits),
      weights_(std::move(weights)),
      cache_(backend_.get(), MakeKvSpec(config_, dtype_, limits_.block_tokens),
             config_.num_kv_heads, config_.head_dim) {}

absl::Status Decoder::AllocateScratch() {
  const auto tokens = static_cast<size_t>(limits_.max_step_tokens);
  const auto rows = static_cast<size_t>(limits_.max_logit_rows);
  const size_t element = SizeOf(dtype_);
  const auto hidden = static_cast<size_t>(config_.hidden_size);
  const auto inner = static_cast<size_t>(config_.intermediate_size);
  const size_t q_dim = static_cast<size_t>(config_.num_heads) * config_.head_dim;
  const size_t kv_dim = static_cast<size_t>(config_.num_kv_heads) * config_.head_dim;
  const std::pair<kernels::DeviceBuffer*, size_t> sizes[] = {
      {&scratch_.step_input, StepBytes(limits_.max_step_tokens, limits_.max_logit_rows)},
      {&scratch_.cos_sin, tokens * config_.head_dim * sizeof(float)},
      {&scratch_.embeddings, tokens * hidden * sizeof(float)},
      {&scratch_.residual, tokens * hidden * element},
      {&scratch_.normed, tokens * hidden * element},
      {&scratch_.qkv, tokens * (q_dim + 2 * kv_dim) * element},
      {&scratch_.attention, tokens * q_dim * element},
      {&scratch_.branch, tokens * hidden * element},
      {&scratch_.gate_up, tokens * 2 * inner * element},
      {&scratch_.activated, tokens * inner * element},
      {&scratch_.last_attention, rows * q_dim * element},
      {&scratch_.last_residual, rows * hidden * element},
      {&scratch_.logits, rows * config_.vocab_size * sizeof(float)},
  };
  for (const auto& [buffer, bytes] : sizes) {
    ASSIGN_OR_RETURN(*buffer, backend_->Allocate(bytes));
  }
  return absl::OkStatus();
}

absl::Status Decoder::AllocateKv(const KvPlan& plan) {
  RETURN_IF_ERROR(cache_.Allocate(plan));
  ASSIGN_OR_RETURN(slot_tokens_,
                   backend_->Allocate(static_cast<size_t>(plan.max_sequences) * sizeof(TokenId)));
  return absl::OkStatus();
}

std::span<TokenId> Decoder::slot_tokens() {
  return {slot_tokens_.as<TokenId>(), slot_tokens_.bytes() / sizeof(TokenId)};
}

Decoder::StepShape Decoder::ShapeOf(const ForwardInput& input) const {
  StepShape shape = {input.num_tokens(),
                     static_cast<int32_t>(input.sequences.size()),
                     static_cast<int32_t>(input.logit_rows.size()),
                     0,
                     0,
                     false};
  for (const SequenceInput& sequence : input.sequences) {
    shape.max_query_len = std::max(shape.max_query_len, sequence.query_len);
    shape.num_decodes += sequence.query_len == 1 ? 1 : 0;
  }
  shape.decodes = shape.max_query_len == 1 && shape.logit_rows == shape.sequences &&
                  input.embedding_spans.empty();
  if (!shape.decodes) return shape;
  const int32_t padded = backend_->PaddedRows(shape.tokens);
  if (padded > limits_.max_step_tokens || padded > limits_.max_logit_rows) return shape;
  shape.tokens = shape.sequences = shape.logit_rows = shape.num_decodes = padded;
  return shape;
}

absl::Status Decoder::Upload(const ForwardInput& input, const StepShape& shape) {
  const auto tokens = static_cast<size_t>(shape.tokens);
  const auto rows = static_cast<size_t>(shape.logit_rows);
  staged_.assign(StepBytes(tokens, rows), 0);
  const auto lay_out = [&](char* base) {
    auto* words = reinterpret_cast<int32_t*>(base);
    auto* sequences = reinterpret_cast<kernels::SequenceSpan*>(words + 4 * tokens);
    auto* logit_rows = reinterpret_cast<int32_t*>(sequences + tokens);
    return StepInput{words,      words + tokens, words + 2 * tokens, words + 3 * tokens,
                     logit_rows, sequences};
  };
  const StepInput host = lay_out(staged_.data());
  std::ranges::copy(input.token_ids, host.token_ids);
  std::ranges::copy(input.positions, host.positions);
  std::ranges::copy(input.logit_rows, host.logit_rows);
  std::fill_n(host.kv_positions, tokens, -1);
  kernels::SequenceSpan* span = host.sequences;
  for (const SequenceInput& s : input.sequences) {
    *span++ = {s.slot, s.first_token, s.query_len, s.context_len};
    for (int32_t i = 0; i < s.query_len; ++i) {
      host.token_slots[s.first_token + i] = s.slot;
      host.kv_positions[s.first_token + i] = s.context_len + i;
    }
  }
  step_ = lay_out(scratch_.step_input.as<char>());
  return backend_->CopyFromHost(scratch_.step_input.data(), staged_.data(), staged_.size());
}

absl::Status Decoder::Embed(const ForwardInput& input, const StepShape& shape) {
  kernels::EmbeddingArgs args;
  args.out = scratch_.residual.data();
  args.table = weights_.embedding.data.data();
  args.token_ids = step_.token_ids;
  args.token_slots = step_.token_slots;
  args.slot_tokens = slot_tokens_.as<int32_t>();
  args.num_tokens = shape.tokens;
  args.hidden = config_.hidden_size;
  args.vocab = config_.vocab_size;
  args.dtype = dtype_;
  args.table_dtype = weights_.embedding.dtype;
  RETURN_IF_ERROR(backend_->Embedding(args));
  if (!input.embedding_spans.empty()) {
    RETURN_IF_ERROR(backend_->CopyFromHost(scratch_.embeddings.data(), input.embeddings.data(),
                                           input.embeddings.size() * sizeof(float)));
  }
  for (const EmbeddingSpan& span : input.embedding_spans) {
    const int64_t hidden = config_.hidden_size;
    kernels::CastArgs cast;
    cast.out = scratch_.residual.as<char>() +
               span.first_token * hidden * static_cast<int64_t>(SizeOf(dtype_));
    cast.x = scratch_.embeddings.as<float>() + span.first_row * hidden;
    cast.count = span.num_tokens * hidden;
    cast.dtype = dtype_;
    RETURN_IF_ERROR(backend_->Cast(cast));
  }
  kernels::RotaryTableArgs rotary;
  rotary.cos_sin = scratch_.cos_sin.as<float>();
  rotary.positions = step_.positions;
  rotary.inv_freq = weights_.inv_freq.as<float>();
  rotary.num_tokens = shape.tokens;
  rotary.half_dim = config_.head_dim / 2;
  rotary.scale = static_cast<float>(config_.rope.attention_scale);
  return backend_->RotaryTable(rotary);
}

absl::Status Decoder::Normalize(const kernels::DeviceBuffer& weight, const void* x, void* residual,
                                int32_t rows) {
  kernels::RmsNormArgs args;
  args.out = scratch_.normed.data();
  args.x = x;
  args.residual = residual;
  args.weight = weight.as<float>();
  args.rows = rows;
  args.dim = config_.hidden_size;
  args.eps = config_.rms_norm_eps;
  args.dtype = dtype_;
  return backend_->RmsNorm(args);
}

absl::Status Decoder::Multiply(const kernels::PackedMatrix& weight,
                               const kernels::DeviceBuffer& bias, const void* x, void* out,
                               int32_t rows) {
  kernels::LinearArgs args;
  args.out = out;
  args.x = x;
  args.bias = bias.as<float>();
  args.rows = rows;
  args.dtype = dtype_;
  args.out_dtype = dtype_;
  return backend_->Linear(args, weight);
}

absl::Status Decoder::WriteKv(int32_t layer, const StepShape& shape) {
  const DecoderLayer& weights = weights_.layers[layer];
  RETURN_IF_ERROR(Multiply(*weights.qkv, weights.qkv_bias, scratch_.normed.data(),
                           scratch_.qkv.data(), shape.tokens));
  // Attention does the rest where it is fused.
  if (AttentionArgs(layer, shape).rotary.cos_sin != nullptr) return absl::OkStatus();
  kernels::RotaryKvWriteArgs args;
  args.qkv = scratch_.qkv.data();
  args.cos_sin = scratch_.cos_sin.as<float>();
  args.q_norm_weight = weights.q_norm.as<float>();
  args.k_norm_weight = weights.k_norm.as<float>();
  args.token_slots = step_.token_slots;
  args.kv_positions = step_.kv_positions;
  args.kv = cache_.View(layer);
  args.num_tokens = shape.tokens;
  args.num_q_heads = config_.num_heads;
  args.norm_eps = config_.rms_norm_eps;
  args.dtype = dtype_;
  return backend_->RotaryKvWrite(args);
}

kernels::PagedAttentionArgs Decoder::AttentionArgs(int32_t layer, const StepShape& shape) const {
  kernels::PagedAttentionArgs args;
  args.out = scratch_.attention.data();
  args.qkv = scratch_.qkv.data();
  args.sequences = step_.sequences;
  args.kv = cache_.View(layer);
  args.num_sequences = shape.sequences;
  args.num_tokens = shape.tokens;
  args.max_query_len = shape.max_query_len;
  args.num_decodes = shape.num_decodes;
  args.num_q_heads = config_.num_heads;
  args.window = cache_.WindowOf(layer);
  args.scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim));
  args.dtype = dtype_;
  if (!shape.decodes) return args;
  const DecoderLayer& weights = weights_.layers[layer];
  kernels::PagedAttentionArgs fused = args;
  fused.rotary.cos_sin = scratch_.cos_sin.as<float>();
  fused.rotary.q_norm_weight = weights.q_norm.as<float>();
  fused.rotary.k_norm_weight = weights.k_norm.as<float>();
  fused.rotary.norm_eps = config_.rms_norm_eps;
  return backend_->FusesRotary(fused) ? fused : args;
}

absl::Status Decoder::Attend(int32_t layer, const StepShape& shape) {
  return backend_->PagedAttention(AttentionArgs(layer, shape));
}

absl::Status Decoder::FinishLayer(int32_t layer, const Flow& flow) {
  const DecoderLayer& weights = weights_.layers[layer];
  RETURN_IF_ERROR(Multiply(*weights.output, weights.output_bias, flow.attention,
                           scratch_.branch.data(), flow.rows));
  RETURN_IF_ERROR(Normalize(weights.post_norm, scratch_.branch.data(), flow.residual, flow.rows));
  RETURN_IF_ERROR(Multiply(*weights.gate_up, weights.gate_up_bias, scratch_.normed.data(),
                           scratch_.gate_up.data(), flow.rows));
  kernels::SiluMulArgs silu;
  silu.out = scratch_.activated.data();
  silu.gate_up = scratch_.gate_up.data();
  silu.rows = flow.rows;
  silu.dim = config_.intermediate_size;
  silu.dtype = dtype_;
  RETURN_IF_ERROR(backend_->SiluMul(silu));
  return Multiply(*weights.down, weights.down_bias, scratch_.activated.data(),
                  scratch_.branch.data(), flow.rows);
}

absl::StatusOr<Decoder::Flow> Decoder::KeepLogitRows(const StepShape& shape) {
  kernels::GatherRowsArgs args;
  args.indices = step_.logit_rows;
  args.rows = shape.logit_rows;
  args.dtype = dtype_;
  args.out = scratch_.last_attention.data();
  args.x = scratch_.attention.data();
  args.dim = config_.num_heads * config_.head_dim;
  RETURN_IF_ERROR(backend_->GatherRows(args));
  args.out = scratch_.last_residual.data();
  args.x = scratch_.residual.data();
  args.dim = config_.hidden_size;
  RETURN_IF_ERROR(backend_->GatherRows(args));
  return Flow{scratch_.last_residual.data(), scratch_.last_attention.data(), args.rows};
}

absl::StatusOr<LogitsView> Decoder::Forward(const ForwardInput& input) {
  if (!cache_.allocated()) return absl::FailedPreconditionError("AllocateKv comes first");
  RETURN_IF_ERROR(CheckForwardInput(
      input, {config_.vocab_size, config_.hidden_size, cache_.plan().max_sequences,
              limits_.max_step_tokens, limits_.max_logit_rows}));
  RETURN_IF_ERROR(cache_.Apply(input));
  for (const SequenceInput& sequence : input.sequences) {
    RETURN_IF_ERROR(cache_.CheckCovered(sequence));
  }
  const StepShape shape = ShapeOf(input);
  RETURN_IF_ERROR(Upload(input, shape));
  if (shape.decodes) {
    RETURN_IF_ERROR(
        backend_->Replay(static_cast<uint64_t>(shape.tokens), [&] { return Run(input, shape); }));
  } else {
    RETURN_IF_ERROR(Run(input, shape));
  }
  return LogitsView{scratch_.logits.as<float>(), static_cast<int32_t>(input.logit_rows.size()),
                    config_.vocab_size};
}

absl::Status Decoder::Run(const ForwardInput& input, const StepShape& shape) {
  RETURN_IF_ERROR(Embed(input, shape));
  Flow flow = {scratch_.residual.data(), scratch_.attention.data(), shape.tokens};
  for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
    const kernels::DeviceBuffer& norm = weights_.layers[layer].input_norm;
    RETURN_IF_ERROR(layer == 0 ? Normalize(norm, flow.residual, nullptr, flow.rows)
                               : Normalize(norm, scratch_.branch.data(), flow.residual, flow.rows));
    RETURN_IF_ERROR(WriteKv(layer, shape));
    // Nothing reads the last layer's output but the logits.
    const bool last = layer + 1 == config_.num_layers;
    if (last && shape.logit_rows == 0) return absl::OkStatus();
    RETURN_IF_ERROR(Attend(layer, shape));
    // Where all rows decode, each wants its logits, in its place.
    if (last && !shape.decodes) {
      ASSIGN_OR_RETURN(flow, KeepLogitRows(shape));
    }
    RETURN_IF_ERROR(FinishLayer(layer, flow));
  }
  RETURN_IF_ERROR(Normalize(weights_.final_norm, scratch_.branch.data(), flow.residual, flow.rows));
  kernels::LinearArgs head;
  head.out = scratch_.logits.data();
  head.x = scratch_.normed.data();
  head.rows = flow.rows;
  head.dtype = dtype_;
  head.out_dtype = DType::kF32;
  return backend_->Linear(head, *weights_.lm_head);
}

}  // namespace fathom::worker
