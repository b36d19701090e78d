#pragma once

// A model that runs steps: the border between the engine, which counts blocks and rows, and the
// device, which holds bytes. Everything a step needs is planned and allocated at start; Forward
// allocates nothing that grows with the request.
//
// Thread safety: none. One thread (the executor's) calls Forward; the sampler reads the logits and
// writes slot_tokens on that same thread, between two Forwards.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/domain.h"
#include "kernels/backend.h"
#include "kernels/dtype.h"
#include "worker/model/forward_input.h"
#include "worker/model/kv_spec.h"
#include "worker/model/model_config.h"

namespace fathom::worker {

// Memory of the backend, in the order of its operations; valid until the next Forward.
struct LogitsView {
  const float* data = nullptr;  // [rows, vocab]
  int32_t rows = 0;
  int32_t vocab = 0;
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const KvSpec& kv_spec() const = 0;

  // Allocates the arena and the block tables; called once, before the first Forward.
  virtual absl::Status AllocateKv(const KvPlan& plan) = 0;

  // Applies table updates and block copies, writes the KV of every token, and computes the logits
  // of input.logit_rows in that order: [num_logit_rows, vocab] in FP32. Errors leave KV of the
  // step's own positions undefined, everything else as it was.
  virtual absl::StatusOr<LogitsView> Forward(const ForwardInput& input) = 0;

  // Prepares one more of the steps that a device keeps for repetition, ahead of its first use;
  // false when there is none left. For moments in which nothing runs.
  virtual absl::StatusOr<bool> PrepareStep() { return false; }

  // [max_sequences] the last sampled token of each slot, in backend memory: written by the sampler,
  // read where token_ids says kTokenFromSlot. Empty before AllocateKv.
  virtual std::span<TokenId> slot_tokens() = 0;

  // Rows of logits that one Forward gives at most.
  virtual int32_t max_logit_rows() const { return 0; }

  // Where it runs, for what reads the logits there; null for a model without a device.
  virtual kernels::Backend* backend() { return nullptr; }
};

enum class BackendKind : uint8_t {
  kRef,   // naive FP32 arithmetic, the oracle; always batch-invariant
  kFast,  // vectorised CPU
  kCuda,  // an NVIDIA GPU, in builds that have it
};

// What a model takes of its backend's memory besides the KV cache, known from the shapes of its
// weights alone.
struct ModelSizes {
  int64_t weight_bytes = 0;
  int64_t scratch_bytes = 0;            // activations of the largest step
  int64_t scratch_bytes_per_token = 0;  // of these, for each of its max_step_tokens
  int64_t scratch_bytes_per_row = 0;    // and for each of its max_logit_rows
  KvSpec kv;
  int32_t max_context = 0;
  std::optional<kernels::DeviceFacts> device;  // before the loading
};

struct ModelOptions {
  std::string path;                    // a checkpoint's folder
  std::string dummy_shape;             // random weights of a shape of model_shapes.h instead
  std::optional<DType> compute_dtype;  // kF32, kBF16 or, on a GPU, kF16; empty: as stored
  BackendKind backend = BackendKind::kFast;
  int32_t device_ordinal = 0;      // which GPU
  int32_t max_sequences = 256;     // a step's at most, on a GPU
  int32_t threads = 0;             // 0: one a core this process may use
  bool batch_invariant = false;    // bit-equal logits whatever the batch and the chunking
  int32_t max_step_tokens = 2048;  // the most tokens one Forward may carry
  int32_t max_logit_rows = 256;    // the most logit rows one Forward may ask for
  int32_t block_tokens = 16;
  // May be empty. Asked before the weights are read; an error ends the loading.
  std::function<absl::Status(const ModelSizes&)> approve;
  // May be empty. Told how many bytes of the source's tensors have been read, of how many (0: not
  // known), before each tensor; an error ends the loading.
  std::function<absl::Status(int64_t done, int64_t total)> progress;
};

// Loads a checkpoint in Hugging Face layout, or makes a model of random weights. Errors name file,
// tensor or config field.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const ModelOptions& options);

// The device of these options as it is now, whether it holds models or not; none where the memory
// is the process's. With `trim`, what this process has freed there is given back first.
// FAILED_PRECONDITION when there is no such device.
absl::StatusOr<std::optional<kernels::DeviceFacts>> DescribeDevice(const ModelOptions& options,
                                                                   bool trim);

}  // namespace fathom::worker
