#pragma once

// The decoder that Llama, Mistral, Qwen2 and Qwen3 share: pre-norm attention with rotary embedding
// and a gated MLP, driven by ModelConfig alone.

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/model/decoder_weights.h"
#include "worker/model/kv_cache.h"
#include "worker/model/model.h"

namespace fathom::worker {

class Decoder final : public Model {
 public:
  struct Limits {
    int32_t max_step_tokens = 0;
    int32_t max_logit_rows = 0;
    int32_t block_tokens = 0;
  };
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(std::unique_ptr<kernels::Backend> backend,
                                                         ModelConfig config,
                                                         const TensorSource& source, DType dtype,
                                                         const Limits& limits);
  // What Create would take of `backend`; reads no more of the source than the shapes of matrices.
  static absl::StatusOr<ModelSizes> Measure(kernels::Backend& backend, const ModelConfig& config,
                                            const TensorSource& source, DType dtype,
                                            const Limits& limits);

  const ModelConfig& config() const override { return config_; }
  const KvSpec& kv_spec() const override { return cache_.spec(); }
  absl::Status AllocateKv(const KvPlan& plan) override;
  absl::StatusOr<LogitsView> Forward(const ForwardInput& input) override;
  absl::StatusOr<bool> PrepareStep() override;
  std::span<TokenId> slot_tokens() override;
  int32_t max_logit_rows() const override { return limits_.max_logit_rows; }
  kernels::Backend* backend() override { return backend_.get(); }

 private:
  // What a step is told, in one piece of device memory, so that it travels in one copy.
  struct StepInput {
    int32_t* token_ids = nullptr;                // [tokens]
    int32_t* token_slots = nullptr;              // [tokens]
    int32_t* positions = nullptr;                // [tokens]
    int32_t* kv_positions = nullptr;             // [tokens]; -1: not written
    int32_t* logit_rows = nullptr;               // [rows]
    kernels::SequenceSpan* sequences = nullptr;  // [sequences]
  };
  // Sizes of a step, padding included.
  struct StepShape {
    int32_t tokens = 0;
    int32_t sequences = 0;
    int32_t logit_rows = 0;
    int32_t max_query_len = 0;
    int32_t num_decodes = 0;  // sequences with one token
    bool decodes = false;     // a token and a logit row for every sequence
  };
  // Activations of one step; T = max_step_tokens, R = max_logit_rows.
  struct Scratch {
    kernels::DeviceBuffer step_input;      // StepInput, for T tokens and sequences and R rows
    kernels::DeviceBuffer cos_sin;         // [T, 2, head_dim / 2] F32
    kernels::DeviceBuffer embeddings;      // [T, hidden] F32, when the input brings some
    kernels::DeviceBuffer residual;        // [T, hidden]
    kernels::DeviceBuffer normed;          // [T, hidden]
    kernels::DeviceBuffer squares;         // [R, square_pitch] F32, where products are fused
    kernels::DeviceBuffer qkv;             // [T, (heads + 2 kv_heads) * head_dim]
    kernels::DeviceBuffer attention;       // [T, heads * head_dim]
    kernels::DeviceBuffer branch;          // [T, hidden]
    kernels::DeviceBuffer gate_up;         // [T, 2 * intermediate]
    kernels::DeviceBuffer activated;       // [T, intermediate]
    kernels::DeviceBuffer last_attention;  // [R, heads * head_dim]
    kernels::DeviceBuffer last_residual;   // [R, hidden]
    kernels::DeviceBuffer logits;          // [R, vocab] F32
  };
  // What flows between the halves of a layer.
  struct Flow {
    void* residual = nullptr;   // [rows, hidden]
    void* attention = nullptr;  // [rows, heads * head_dim]
    int32_t rows = 0;
    bool fuses = false;  // products take the norms, SiLU and the residual along
    // 0: scratch_.normed is normalised. Else its rows are still to be divided, as LinearFusion
    // says, and scratch_.squares holds so many parts of each row's sum.
    int32_t square_parts = 0;
  };

  Decoder(std::unique_ptr<kernels::Backend> backend, ModelConfig config, DType dtype,
          const Limits& limits, DecoderWeights weights);
  absl::Status AllocateScratch(const Limits& limits);
  StepShape ShapeOf(const ForwardInput& input) const;
  // Of a step in which so many sequences decode.
  static StepShape DecodeShape(int32_t rows);
  static StepInput LayOut(char* base, const StepShape& shape);
  absl::Status Upload(const ForwardInput& input, const StepShape& shape);
  // Launches everything but what a step uploads; depends on `shape` alone where there are no
  // embedding spans.
  absl::Status Run(const ForwardInput& input, const StepShape& shape);
  absl::Status Embed(const ForwardInput& input, const StepShape& shape);
  absl::Status Normalize(const kernels::DeviceBuffer& weight, const void* x, void* residual,
                         int32_t rows);
  absl::Status Multiply(const kernels::PackedMatrix& weight, const kernels::DeviceBuffer& bias,
                        const void* x, void* out, int32_t rows,
                        const kernels::LinearFusion& fusion = {});
  // Whether a step of so many rows fuses its products.
  bool Fuses(int32_t rows) const;
  // For products that take scratch_.normed as it is.
  kernels::LinearFusion Dividing(const Flow& flow) const;
  // flow.residual += x W^T; scratch_.normed becomes the next norm's, up to the division.
  absl::Status MultiplyIntoResidual(const kernels::PackedMatrix& weight,
                                    const kernels::DeviceBuffer& bias, const void* x,
                                    const kernels::DeviceBuffer& next_norm, Flow& flow);
  // Projects, rotates and writes the keys and values of a layer; leaves all but the projection to
  // Attend where the backend fuses them.
  absl::Status WriteKv(int32_t layer, const StepShape& shape, const Flow& flow);
  kernels::PagedAttentionArgs AttentionArgs(int32_t layer, const StepShape& shape) const;
  absl::Status Attend(int32_t layer, const StepShape& shape);
  // Output projection and MLP; the result is in scratch_.branch, not yet in the residual.
  absl::Status FinishLayer(int32_t layer, const Flow& flow);
  // The same with fused products: it is in the residual, and normed is the next layer's.
  absl::Status FinishLayerFused(int32_t layer, Flow& flow);
  absl::StatusOr<Flow> KeepLogitRows(const StepShape& shape);

  const std::unique_ptr<kernels::Backend> backend_;
  const ModelConfig config_;
  const DType dtype_;
  const Limits limits_;
  const DecoderWeights weights_;
  KvCache cache_;
  Scratch scratch_;
  int32_t square_pitch_ = 0;
  int32_t prepared_rows_ = 0;          // of the largest step PrepareStep has prepared
  StepInput step_;                     // into scratch_.step_input
  std::vector<char> staged_;           // what goes there, while it is written
  kernels::DeviceBuffer slot_tokens_;  // [max_sequences]
};

}  // namespace fathom::worker
