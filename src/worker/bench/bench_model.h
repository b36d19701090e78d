#pragma once

// A model with a full KV cache, driven step by step without an engine: what the device costs, and
// nothing else. Thread safety: none.

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/model.h"

namespace fathom::worker {

// A decode step of `batch` sequences, each behind `context` tokens.
struct DecodeCase {
  int32_t batch = 1;
  int32_t context = 1;
};

class BenchModel {
 public:
  // Room for each of the cases and prompts, in turn. `options` says which model; its
  // limits are set here, but for max_step_tokens. InvalidArgument for what exceeds the model's
  // context, ResourceExhausted when `free_bytes` cannot hold the cache.
  static absl::StatusOr<std::unique_ptr<BenchModel>> Create(ModelOptions options,
                                                            std::span<const DecodeCase> cases,
                                                            std::span<const int32_t> prompts,
                                                            int64_t free_bytes);

  const ModelConfig& config() const { return model_->config(); }
  DType kv_dtype() const { return model_->kv_spec().dtype; }
  int32_t step_tokens() const { return step_tokens_; }

  // Waits for the steps that a GPU may still run.
  absl::Status Synchronize();

  // One step; the same again and again, for its tokens are not kept.
  absl::Status Decode(const DecodeCase& what);
  // A whole prompt, in as many steps as it needs.
  absl::Status Prefill(int32_t prompt);

 private:
  BenchModel(std::unique_ptr<Model> model, int32_t step_tokens)
      : model_(std::move(model)), step_tokens_(step_tokens) {}
  // Fills every block with the keys and values of real tokens.
  absl::Status FillCache(const KvPlan& plan);
  void AddSequence(ForwardInput& input, int32_t slot, int32_t context, int32_t tokens,
                   bool wants_logits);
  // Gives `slot` the blocks behind `first_block` for so many tokens, in every group.
  void GiveBlocks(ForwardInput& input, int32_t slot, int32_t first_block, int32_t tokens);

  const std::unique_ptr<Model> model_;
  const int32_t step_tokens_;
  uint64_t step_ = 0;
  uint32_t token_ = 1;
};

}  // namespace fathom::worker
