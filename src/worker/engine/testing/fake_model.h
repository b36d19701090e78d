#pragma once

// A model without arithmetic: the logits after a history of tokens are a hash of exactly that
// history. It keeps a shadow of the KV cache: every position of every block remembers which history
// was written there, and a query reads its past through the block tables as attention would. So a
// block freed too early, a wrong table or a wrong copy is found where it happens, and any
// scheduling mistake changes tokens.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "worker/model/model.h"

namespace fathom::worker {

struct FakeModelOptions {
  int32_t vocab_size = 48;
  int32_t max_context = 256;
  int32_t block_tokens = 4;
  bool full_group = true;
  int32_t window = 0;  // > 0: a second group with a sliding window
  std::vector<TokenId> eos = {0};
  std::function<void()> before_step;  // adversarial delays
  TokenId poison = -1;                // logits after this token are NaN
  uint64_t lose_device_at = 0;        // > 0: that step and all later ones fail
  bool lose_device_idle = false;      // preparing a step fails
};

class FakeModel final : public Model {
 public:
  explicit FakeModel(FakeModelOptions options);

  const ModelConfig& config() const override { return config_; }
  const KvSpec& kv_spec() const override { return spec_; }
  absl::Status AllocateKv(const KvPlan& plan) override;
  absl::StatusOr<LogitsView> Forward(const ForwardInput& input) override;
  absl::StatusOr<bool> PrepareStep() override {
    if (options_.lose_device_idle) return absl::InternalError("the device is gone");
    return false;
  }
  std::span<TokenId> slot_tokens() override { return slot_tokens_; }

  // The state after a history and one more token; histories begin with 0.
  static uint64_t Extend(uint64_t history, TokenId token);
  // [vocab_size] logits after a history.
  static void LogitsOf(uint64_t history, TokenId last, const FakeModelOptions& options,
                       std::span<float> logits);

 private:
  struct Cell {
    uint64_t history = 0;  // that includes `token`
    int32_t position = -1;
    TokenId token = -1;
  };
  struct Group {
    int32_t window = 0;
    std::vector<Cell> cells;                   // [blocks * block_tokens]
    std::vector<std::vector<BlockId>> tables;  // [slots]
  };
  absl::Status RunSequence(const ForwardInput& input, const SequenceInput& s);
  absl::StatusOr<uint64_t> ReadPast(const Group& group, int32_t slot, int32_t position) const;
  absl::StatusOr<size_t> CellOf(const Group& group, int32_t slot, int32_t position) const;

  const FakeModelOptions options_;
  ModelConfig config_;
  KvSpec spec_;
  std::vector<Group> groups_;
  std::vector<TokenId> slot_tokens_;
  std::vector<float> logits_;
};

}  // namespace fathom::worker
