#pragma once

// For tests: a loaded model with scattered blocks, and sequences that are fed to it in any pieces.

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "worker/model/kv_plan.h"
#include "worker/model/model.h"
#include "worker/model/safetensors.h"

namespace fathom::worker {

inline std::string SourcePath(const std::string& relative) {
  const char* root = std::getenv("FATHOM_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/" + relative;
}

// Tokens, and what transformers computes after some of them.
struct GoldenSequence {
  std::vector<TokenId> tokens;
  std::vector<int32_t> rows;
  std::vector<float> logits;  // [rows, vocab]
};

inline std::vector<GoldenSequence> ReadGoldens(const std::string& path) {
  auto file = SafetensorsFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  std::vector<GoldenSequence> all;
  const auto& tensors = (*file)->tensors();
  for (int i = 0; tensors.contains("tokens_" + std::to_string(i)); ++i) {
    const auto fill = [&](const std::string& name, auto& out) {
      const kernels::TensorView& view = tensors.find(name + "_" + std::to_string(i))->second;
      out.resize(view.NumElements());
      std::memcpy(out.data(), view.data, view.NumBytes());
    };
    GoldenSequence& golden = all.emplace_back();
    fill("tokens", golden.tokens);
    fill("rows", golden.rows);
    fill("logits", golden.logits);
  }
  return all;
}

// One sequence's share of a step.
struct Piece {
  int32_t slot = 0;
  std::vector<TokenId> tokens;
  std::vector<int32_t> rows;  // of these tokens, those whose logits are wanted
};

class ModelHarness {
 public:
  static constexpr int32_t kMaxSequences = 4;
  static constexpr int32_t kMaxContext = 768;

  ModelHarness(const ModelOptions& options, uint32_t seed) : random_(seed) {
    auto model = LoadModel(options);
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = std::move(*model);
    auto plan = PlanKv(model_->kv_spec(), int64_t{1} << 30, kMaxContext, kMaxSequences);
    EXPECT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(model_->AllocateKv(*plan).ok());
    for (const int32_t blocks : plan->num_blocks) {
      std::vector<BlockId>& free = free_.emplace_back(blocks);
      for (int32_t i = 0; i < blocks; ++i) free[i] = i;
      std::ranges::shuffle(free, random_);
    }
    Reset();
  }

  Model& model() { return *model_; }
  const ModelConfig& config() const { return model_->config(); }

  // Forgets all sequences; their blocks go back, in another order.
  void Reset() {
    const size_t groups = model_->kv_spec().groups.size();
    for (size_t group = 0; group < tables_.size(); ++group) {
      for (std::vector<BlockId>& table : tables_[group]) {
        for (const BlockId id : table) {
          if (id >= 0) free_[group].push_back(id);
        }
      }
      std::ranges::shuffle(free_[group], random_);
    }
    tables_.assign(groups, std::vector<std::vector<BlockId>>(kMaxSequences));
    lengths_.assign(kMaxSequences, 0);
  }

  int32_t length(int32_t slot) const { return lengths_[slot]; }

  // One step. The logits of the pieces' rows, in order: [rows, vocab].
  std::vector<float> Step(const std::vector<Piece>& pieces) {
    ForwardInput input;
    for (const Piece& piece : pieces) Add(piece, input);
    auto logits = model_->Forward(input);
    EXPECT_TRUE(logits.ok()) << logits.status();
    if (!logits.ok()) return {};
    EXPECT_EQ(logits->rows, static_cast<int32_t>(input.logit_rows.size()));
    std::vector<float> host(static_cast<size_t>(logits->rows) * logits->vocab);
    EXPECT_TRUE(
        model_->backend()->CopyToHost(host.data(), logits->data, host.size() * sizeof(float)).ok());
    return host;
  }

 private:
  void Add(const Piece& piece, ForwardInput& input) {
    SequenceInput sequence;
    sequence.slot = piece.slot;
    sequence.first_token = input.num_tokens();
    sequence.query_len = static_cast<int32_t>(piece.tokens.size());
    sequence.context_len = lengths_[piece.slot];
    sequence.first_logit_row = static_cast<int32_t>(input.logit_rows.size());
    sequence.num_logit_rows = static_cast<int32_t>(piece.rows.size());
    for (const int32_t row : piece.rows) input.logit_rows.push_back(sequence.first_token + row);
    for (const TokenId token : piece.tokens) {
      input.positions.push_back(lengths_[piece.slot]++);
      input.token_ids.push_back(token);
    }
    input.sequences.push_back(sequence);
    for (size_t group = 0; group < tables_.size(); ++group) {
      Release(piece.slot, group, sequence.context_len, input);
      Grow(piece.slot, group, input);
    }
  }

  void Grow(int32_t slot, size_t group, ForwardInput& input) {
    std::vector<BlockId>& table = tables_[group][slot];
    BlockTableUpdate update = {slot, static_cast<int32_t>(group),
                               static_cast<int32_t>(table.size()),
                               static_cast<int32_t>(input.block_ids.size()), 0};
    while (static_cast<int32_t>(table.size()) * model_->kv_spec().block_tokens < lengths_[slot]) {
      table.push_back(free_[group].back());
      free_[group].pop_back();
      input.block_ids.push_back(table.back());
      ++update.num_blocks;
    }
    if (update.num_blocks > 0) input.table_updates.push_back(update);
  }

  // Takes away what no query of this step can see any more.
  void Release(int32_t slot, size_t group, int32_t context_len, ForwardInput& input) {
    const int32_t window = model_->kv_spec().groups[group].window_tokens;
    if (window == 0) return;
    const int32_t gone = std::max(context_len - window + 1, 0) / model_->kv_spec().block_tokens;
    std::vector<BlockId>& table = tables_[group][slot];
    for (int32_t i = 0; i < gone; ++i) {
      if (table[i] < 0) continue;
      free_[group].insert(free_[group].begin(), table[i]);
      table[i] = -1;
      input.table_updates.push_back(
          {slot, static_cast<int32_t>(group), i, static_cast<int32_t>(input.block_ids.size()), 1});
      input.block_ids.push_back(-1);
    }
  }

  std::mt19937 random_;
  std::unique_ptr<Model> model_;
  std::vector<std::vector<BlockId>> free_;                 // [groups]
  std::vector<std::vector<std::vector<BlockId>>> tables_;  // [groups][slots]
  std::vector<int32_t> lengths_;                           // [slots]
};

}  // namespace fathom::worker
