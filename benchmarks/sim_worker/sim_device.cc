#include "benchmarks/sim_worker/sim_device.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/load/simulated_text.h"
#include "common/clock.h"
#include "common/status_macros.h"
#include "text/text.h"
#include "worker/model/kv_plan.h"

namespace fathom::worker {
namespace {

using cli::kSimulatedAlphabet;
using Letters = std::array<TokenId, kSimulatedAlphabet.size()>;

// The border to the engine: sizes and identity. Nothing runs it.
class SimModel final : public Model {
 public:
  SimModel(ModelConfig config, KvSpec spec, const Letters& letters)
      : config_(std::move(config)), spec_(std::move(spec)), letters_(letters) {}

  const ModelConfig& config() const override { return config_; }
  const KvSpec& kv_spec() const override { return spec_; }
  absl::Status AllocateKv(const KvPlan& plan) override {
    plan_ = plan;
    return absl::OkStatus();
  }
  absl::StatusOr<LogitsView> Forward(const ForwardInput& /*input*/) override {
    return absl::UnimplementedError("a simulated model has no logits");
  }
  std::span<TokenId> slot_tokens() override { return {}; }

  const KvPlan& plan() const { return plan_; }
  const Letters& letters() const { return letters_; }

 private:
  const ModelConfig config_;
  const KvSpec spec_;
  const Letters letters_;
  KvPlan plan_;
};

absl::StatusOr<std::unique_ptr<Model>> LoadSimModel(const ModelOptions& options) {
  ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(options.path));
  KvSpec spec = MakeKvSpec(config, config.dtype, options.block_tokens);
  if (spec.groups.size() != 1 || spec.groups[0].kind != KvGroupKind::kFull) {
    return absl::UnimplementedError("the simulated device knows full attention only");
  }
  ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::FromDirectory(options.path));
  Letters letters{};
  for (size_t i = 0; i < letters.size(); ++i) {
    const std::optional<TokenId> id = tokenizer->TokenToId(kSimulatedAlphabet.substr(i, 1));
    if (!id) {
      return absl::UnimplementedError(
          absl::StrCat("the tokenizer has no token '", std::string(1, kSimulatedAlphabet[i]), "'"));
    }
    letters[i] = *id;
  }
  return std::make_unique<SimModel>(std::move(config), std::move(spec), letters);
}

// Works at launch, on the engine's thread, and lets Await wait until the device would have been
// done.
class SimExecutor final : public Executor {
 public:
  SimExecutor(std::unique_ptr<SimModel> model, const TimeModel& time)
      : time_(time),
        letters_(model->letters()),
        block_tokens_(model->kv_spec().block_tokens),
        cells_(static_cast<size_t>(model->plan().num_blocks[0]) * block_tokens_),
        tables_(model->plan().max_sequences),
        slot_tokens_(model->plan().max_sequences, -1),
        slot_ends_(model->plan().max_sequences, 0) {
    for (std::vector<BlockId>& table : tables_) {
      table.assign(model->plan().max_blocks_per_sequence, -1);
    }
  }

  void LaunchForward(const ForwardInput& input) override {
    busy_until_ns_ = std::max(busy_until_ns_, Clock::Real()->MonotonicNs()) + time_.StepNs(input);
    for (const BlockTableUpdate& u : input.table_updates) {
      std::copy_n(input.block_ids.begin() + u.first_block, u.num_blocks,
                  tables_[u.slot].begin() + u.first_index);
    }
    for (const BlockCopy& c : input.copies) {
      std::copy_n(cells_.begin() + CellOf(c.source, 0), block_tokens_,
                  cells_.begin() + CellOf(c.destination, 0));
    }
    for (const SequenceInput& s : input.sequences) Write(input, s);
  }

  void LaunchSample(uint64_t step, const SampleInput& input) override {
    Output& output = outputs_[step % kOutputs];
    output.done_ns = busy_until_ns_;
    SampleOutput& out = output.sample;
    out.Clear();
    for (const SampleRow& row : input.rows) {
      // The prompt ends `position` tokens before the one that was written last.
      const auto history = HistoryAt(row.slot, slot_ends_[row.slot] - row.position - 1);
      const TokenId token = letters_[cli::SimulatedLetter(history.value_or(0), row.position)];
      slot_tokens_[row.slot] = token;
      out.rows.push_back({RowStatus::kOk, static_cast<int32_t>(out.tokens.size()), 1});
      out.tokens.push_back(token);
    }
    out.logprobs.resize(out.tokens.size());
    out.scores.resize(input.scores.size());
    out.score_status.resize(input.scores.size(), RowStatus::kOk);
  }

  absl::StatusOr<const SampleOutput*> Await(uint64_t step) override {
    if (!status_.ok()) return status_;
    const Output& output = outputs_[step % kOutputs];
    std::this_thread::sleep_until(
        std::chrono::steady_clock::time_point(std::chrono::nanoseconds(output.done_ns)));
    return &output.sample;
  }

 private:
  static constexpr size_t kOutputs = 3;  // two steps in flight and the one being read

  struct Cell {
    uint64_t history = 0;  // that includes this position's token
    int32_t position = -1;
  };
  struct Output {
    SampleOutput sample;
    int64_t done_ns = 0;
  };

  std::ptrdiff_t CellOf(BlockId block, int32_t offset) const {
    return static_cast<std::ptrdiff_t>(block) * block_tokens_ + offset;
  }

  // Nothing, with the error kept, when the block table leads to other tokens.
  std::optional<uint64_t> HistoryAt(int32_t slot, int32_t position) {
    if (position < 0) return 0;
    const BlockId block = tables_[slot][position / block_tokens_];
    if (block >= 0) {
      const Cell& cell = cells_[CellOf(block, position % block_tokens_)];
      if (cell.position == position) return cell.history;
    }
    if (status_.ok()) {
      status_ = absl::InternalError(
          absl::StrCat("the KV of slot ", slot, " position ", position, " is not its own"));
    }
    return std::nullopt;
  }

  void Write(const ForwardInput& input, const SequenceInput& s) {
    uint64_t history = HistoryAt(s.slot, s.context_len - 1).value_or(0);
    for (int32_t i = 0; i < s.query_len; ++i) {
      const TokenId given = input.token_ids[s.first_token + i];
      history = cli::ExtendHistory(history, given == kTokenFromSlot ? slot_tokens_[s.slot] : given);
      const int32_t position = s.context_len + i;
      const BlockId block = tables_[s.slot][position / block_tokens_];
      cells_[CellOf(block, position % block_tokens_)] = {history, position};
    }
    slot_ends_[s.slot] = s.context_len + s.query_len;
  }

  const TimeModel time_;
  const Letters letters_;
  const int32_t block_tokens_;
  std::vector<Cell> cells_;                   // [blocks * block_tokens]
  std::vector<std::vector<BlockId>> tables_;  // [slots]
  std::vector<TokenId> slot_tokens_;          // [slots] the last sampled token
  std::vector<int32_t> slot_ends_;            // [slots] tokens written so far
  std::array<Output, kOutputs> outputs_;
  int64_t busy_until_ns_ = 0;
  absl::Status status_;
};

}  // namespace

Device MakeSimDevice(const TimeModel& time) {
  return {.load = LoadSimModel,
          .make_executor = [time](std::unique_ptr<Model> model,
                                  int32_t /*max_sequences*/) -> std::unique_ptr<Executor> {
            std::unique_ptr<SimModel> made(static_cast<SimModel*>(model.release()));
            return std::make_unique<SimExecutor>(std::move(made), time);
          },
          .describe = [](const ModelOptions& /*options*/, bool /*trim*/)
              -> absl::StatusOr<std::optional<kernels::DeviceFacts>> { return std::nullopt; }};
}

}  // namespace fathom::worker
