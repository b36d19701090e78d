#include "worker/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "kernels/measuring_backend.h"
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
  RETURN_IF_ERROR(decoder->AllocateScratch(limits));
  return decoder;
}

absl::StatusOr<ModelSizes> Decoder::Measure(kernels::Backend& backend, const ModelConfig& config,
                                            const TensorSource& source, DType dtype,
                                            const Limits& limits) {
  auto meter = std::make_unique<kernels::MeasuringBackend>(&backend);
  const kernels::MeasuringBackend& measured = *meter;
  ASSIGN_OR_RETURN(DecoderWeights weights, LoadDecoderWeights(config, source, dtype, *meter));
  ModelSizes sizes;
  sizes.weight_bytes = measured.bytes();
  Decoder decoder(std::move(meter), config, dtype, limits, std::move(weights));
  const auto scratch_of = [&](int32_t tokens, int32_t rows) -> absl::StatusOr<int64_t> {
    const int64_t before = measured.bytes();
    RETURN_IF_ERROR(decoder.AllocateScratch({tokens, rows, limits.block_tokens}));
    return measured.bytes() - before;
  };
  ASSIGN_OR_RETURN(sizes.scratch_bytes, scratch_of(limits.max_step_tokens, limits.max_logit_rows));
  ASSIGN_OR_RETURN(const int64_t least, scratch_of(1, 1));
  ASSIGN_OR_RETURN(const int64_t with_token, scratch_of(2, 1));
  ASSIGN_OR_RETURN(const int64_t with_row, scratch_of(1, 2));
  sizes.scratch_bytes_per_token = with_token - least;
  sizes.scratch_bytes_per_row = with_row - least;
  sizes.kv = MakeKvSpec(config, dtype, limits.block_tokens);
  sizes.max_context = config.max_context;
  ASSIGN_OR_RETURN(sizes.device, backend.Facts());
  return sizes;
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

absl::Status Decoder::AllocateScratch(const Limits& limits) {
  const auto tokens = static_cast<size_t>(limits.max_step_tokens);
  const auto rows = static_cast<size_t>(limits.max_logit_rows);
  const size_t element = SizeOf(dtype_);
  const auto hidden = static_cast<size_t>(config_.hidden_size);
  const auto inner = static_cast<size_t>(config_.intermediate_size);
  const size_t q_dim = static_cast<size_t>(config_.num_heads) * config_.head_dim;
  const size_t kv_dim = static_cast<size_t>(config_.num_kv_heads) * config_.head_dim;
  if (Fuses(1)) square_pitch_ = (config_.hidden_size + 15) / 16;  // as many parts as there can be
  const std::pair<kernels::DeviceBuffer*, size_t> sizes[] = {
      {&scratch_.step_input, StepBytes(tokens, rows)},
      {&scratch_.cos_sin, tokens * config_.head_dim * sizeof(float)},
      {&scratch_.embeddings, tokens * hidden * sizeof(float)},
      {&scratch_.residual, tokens * hidden * element},
      {&scratch_.normed, tokens * hidden * element},
      {&scratch_.squares, rows * square_pitch_ * sizeof(float)},
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
  return DecodeShape(padded);
}

Decoder::StepShape Decoder::DecodeShape(int32_t rows) {
  return {.tokens = rows,
          .sequences = rows,
          .logit_rows = rows,
          .max_query_len = 1,
          .num_decodes = rows,
          .decodes = true};
}

Decoder::StepInput Decoder::LayOut(char* base, const StepShape& shape) {
  const auto tokens = static_cast<size_t>(shape.tokens);
  auto* words = reinterpret_cast<int32_t*>(base);
  auto* sequences = reinterpret_cast<kernels::SequenceSpan*>(words + 4 * tokens);
  auto* logit_rows = reinterpret_cast<int32_t*>(sequences + tokens);
  return {words, words + tokens, words + 2 * tokens, words + 3 * tokens, logit_rows, sequences};
}

absl::Status Decoder::Upload(const ForwardInput& input, const StepShape& shape) {
  const auto tokens = static_cast<size_t>(shape.tokens);
  const auto rows = static_cast<size_t>(shape.logit_rows);
  staged_.assign(StepBytes(tokens, rows), 0);
  const StepInput host = LayOut(staged_.data(), shape);
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
  step_ = LayOut(scratch_.step_input.as<char>(), shape);
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
                               int32_t rows, const kernels::LinearFusion& fusion) {
  kernels::LinearArgs args;
  args.out = out;
  args.x = x;
  args.bias = bias.as<float>();
  args.rows = rows;
  args.dtype = dtype_;
  args.out_dtype = dtype_;
  args.fusion = fusion;
  return backend_->Linear(args, weight);
}

bool Decoder::Fuses(int32_t rows) const {
  const DecoderLayer& layer = weights_.layers.front();
  const kernels::PackedMatrix* const products[] = {layer.qkv.get(), layer.output.get(),
                                                   layer.gate_up.get(), layer.down.get(),
                                                   weights_.lm_head.get()};
  return std::ranges::all_of(products, [&](const kernels::PackedMatrix* matrix) {
    return backend_->FusesLinear(rows, dtype_, *matrix);
  });
}

kernels::LinearFusion Decoder::Dividing(const Flow& flow) const {
  if (flow.square_parts == 0) return {};
  return {.square_sums = scratch_.squares.as<float>(),
          .square_parts = flow.square_parts,
          .norm_eps = config_.rms_norm_eps,
          .square_pitch = square_pitch_};
}

absl::Status Decoder::MultiplyIntoResidual(const kernels::PackedMatrix& weight,
                                           const kernels::DeviceBuffer& bias, const void* x,
                                           const kernels::DeviceBuffer& next_norm, Flow& flow) {
  flow.square_parts = backend_->SquareParts(weight);
  return Multiply(weight, bias, x, scratch_.normed.data(), flow.rows,
                  {.residual = flow.residual,
                   .norm_weight = next_norm.as<float>(),
                   .residual_squares = scratch_.squares.as<float>(),
                   .square_pitch = square_pitch_});
}

absl::Status Decoder::WriteKv(int32_t layer, const StepShape& shape, const Flow& flow) {
  const DecoderLayer& weights = weights_.layers[layer];
  RETURN_IF_ERROR(Multiply(*weights.qkv, weights.qkv_bias, scratch_.normed.data(),
                           scratch_.qkv.data(), flow.rows, Dividing(flow)));
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
  args.num_tokens = flow.rows;
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

absl::Status Decoder::FinishLayerFused(int32_t layer, Flow& flow) {
  const DecoderLayer& weights = weights_.layers[layer];
  RETURN_IF_ERROR(MultiplyIntoResidual(*weights.output, weights.output_bias, flow.attention,
                                       weights.post_norm, flow));
  kernels::LinearFusion gated = Dividing(flow);
  gated.gated = true;
  RETURN_IF_ERROR(Multiply(*weights.gate_up, weights.gate_up_bias, scratch_.normed.data(),
                           scratch_.activated.data(), flow.rows, gated));
  const bool last = layer + 1 == config_.num_layers;
  return MultiplyIntoResidual(*weights.down, weights.down_bias, scratch_.activated.data(),
                              last ? weights_.final_norm : weights_.layers[layer + 1].input_norm,
                              flow);
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
  return Flow{.residual = scratch_.last_residual.data(),
              .attention = scratch_.last_attention.data(),
              .rows = args.rows};
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

absl::StatusOr<bool> Decoder::PrepareStep() {
  const int32_t most = std::min({limits_.max_step_tokens, limits_.max_logit_rows,
                                 cache_.allocated() ? cache_.plan().max_sequences : 0});
  if (prepared_rows_ >= most) return false;
  const int32_t rows = backend_->PaddedRows(prepared_rows_ + 1);
  prepared_rows_ = rows;
  if (rows > limits_.max_step_tokens || rows > limits_.max_logit_rows) return false;
  const StepShape shape = DecodeShape(rows);
  step_ = LayOut(scratch_.step_input.as<char>(), shape);
  return backend_->Keep(static_cast<uint64_t>(rows), [&] { return Run({}, shape); });
}

absl::Status Decoder::Run(const ForwardInput& input, const StepShape& shape) {
  RETURN_IF_ERROR(Embed(input, shape));
  Flow flow = {.residual = scratch_.residual.data(),
               .attention = scratch_.attention.data(),
               .rows = shape.tokens,
               .fuses = shape.decodes && Fuses(shape.tokens)};
  RETURN_IF_ERROR(Normalize(weights_.layers.front().input_norm, flow.residual, nullptr, flow.rows));
  for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
    RETURN_IF_ERROR(WriteKv(layer, shape, flow));
    // Nothing reads the last layer's output but the logits.
    const bool last = layer + 1 == config_.num_layers;
    if (last && shape.logit_rows == 0) return absl::OkStatus();
    RETURN_IF_ERROR(Attend(layer, shape));
    if (flow.fuses) {
      RETURN_IF_ERROR(FinishLayerFused(layer, flow));
      continue;
    }
    // Where all rows decode, each wants its logits, in its place.
    if (last && !shape.decodes) {
      ASSIGN_OR_RETURN(flow, KeepLogitRows(shape));
    }
    RETURN_IF_ERROR(FinishLayer(layer, flow));
    const kernels::DeviceBuffer& next =
        last ? weights_.final_norm : weights_.layers[layer + 1].input_norm;
    RETURN_IF_ERROR(Normalize(next, scratch_.branch.data(), flow.residual, flow.rows));
  }
  kernels::LinearArgs head;
  head.out = scratch_.logits.data();
  head.x = scratch_.normed.data();
  head.rows = flow.rows;
  head.dtype = dtype_;
  head.out_dtype = DType::kF32;
  head.fusion = Dividing(flow);
  return backend_->Linear(head, *weights_.lm_head);
}

}  // namespace fathom::worker
