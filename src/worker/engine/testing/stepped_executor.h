#pragma once

// A device without a thread, as late or as early as its seed wants: launched work runs at once, or
// sometime before it is awaited. It also holds the engine to its promise that nothing a step in
// flight uses is given to somebody else. Thread safety: none.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/engine/executor.h"
#include "worker/sampling/sampler.h"

namespace fathom::worker {

class SteppedExecutor final : public Executor {
 public:
  // `eagerness` in [0, 1]: how likely a launch runs what is queued.
  SteppedExecutor(Model* model, int32_t max_sequences, double eagerness, uint64_t seed)
      : model_(model),
        sampler_(max_sequences, model->config().vocab_size),
        eager_(eagerness),
        random_(seed) {}

  void LaunchForward(const ForwardInput& input) override {
    CheckUse(input);
    queue_.push_back({&input, nullptr, input.step});
    MaybeRun();
  }
  void LaunchSample(uint64_t step, const SampleInput& input) override {
    queue_.push_back({nullptr, &input, step});
    MaybeRun();
  }
  absl::StatusOr<const SampleOutput*> Await(uint64_t step) override {
    while (status_.ok() && done_ < step && !queue_.empty()) RunOne();
    if (status_.ok() && done_ < step)
      status_ = absl::InternalError("awaiting what is not launched");
    uses_.erase(step);
    max_in_flight_ = std::max(max_in_flight_, uses_.size() + 1);
    if (!status_.ok()) return status_;
    return &outputs_[step % 3];
  }
  size_t max_in_flight() const { return max_in_flight_; }

 private:
  struct Command {
    const ForwardInput* forward;
    const SampleInput* sample;
    uint64_t step;
  };
  using Block = std::pair<int32_t, BlockId>;  // group, id
  struct Use {
    std::set<int32_t> slots;
    std::map<Block, std::set<int32_t>> touched;  // by which slots
    std::map<Block, std::set<int32_t>> copied;   // sources of copies; who has them in a table
  };

  void MaybeRun() {
    while (!queue_.empty() && std::bernoulli_distribution(eager_)(random_)) RunOne();
  }

  void RunOne() {
    const Command c = queue_.front();
    queue_.pop_front();
    if (!status_.ok()) return;
    if (c.forward != nullptr) {
      auto logits = model_->Forward(*c.forward);
      if (logits.ok()) logits_ = *logits;
      status_ = logits.status();
      return;
    }
    status_ = sampler_.Run(*c.sample, logits_.data, logits_.rows, model_->slot_tokens(),
                           &outputs_[c.step % 3]);
    if (status_.ok()) done_ = c.step;
  }

  void CheckUse(const ForwardInput& in) {
    for (const BlockTableUpdate& u : in.table_updates) {
      std::vector<BlockId>& table = tables_[{u.group, u.slot}];
      // A table that begins anew: the slot has a new owner.
      if (u.first_index < static_cast<int32_t>(table.size())) {
        for (const auto& [step, use] : uses_) {
          if (use.slots.contains(u.slot)) Fail("a slot changed hands while a step used it");
        }
        table.clear();
      }
      table.resize(u.first_index, -1);
      table.insert(table.end(), in.block_ids.begin() + u.first_block,
                   in.block_ids.begin() + u.first_block + u.num_blocks);
    }
    Use use;
    std::map<Block, int32_t> written;
    const int32_t bt = model_->kv_spec().block_tokens;
    for (const SequenceInput& s : in.sequences) {
      use.slots.insert(s.slot);
      for (size_t g = 0; g < model_->kv_spec().groups.size(); ++g) {
        const int32_t window = model_->kv_spec().groups[g].window_tokens;
        const int32_t first = window == 0 ? 0 : std::max(0, s.context_len - window + 1);
        const auto group = static_cast<int32_t>(g);
        const std::vector<BlockId>& table = tables_[{group, s.slot}];
        const int32_t end = s.context_len + s.query_len;
        if (static_cast<int32_t>(table.size()) * bt < end) return Fail("a table is too short");
        for (int32_t b = first / bt; b <= (end - 1) / bt; ++b) {
          use.touched[{group, table[b]}].insert(s.slot);
          if (b >= s.context_len / bt) written[{group, table[b]}] = s.slot;
        }
      }
    }
    for (const auto& [block, slot] : written) {
      if (use.touched[block].size() > 1) Fail("a block is written and shared in one step");
      for (const auto& [step, other] : uses_) {
        const auto touched = other.touched.find(block);
        const bool foreign = touched != other.touched.end() &&
                             (touched->second.size() > 1 || !touched->second.contains(slot));
        const auto copied = other.copied.find(block);
        if (foreign || (copied != other.copied.end() && !copied->second.contains(slot))) {
          Fail("a block was given away while a step used it");
        }
      }
    }
    // Copies run before the step's writes, so the owner may go on writing.
    for (const BlockCopy& c : in.copies) {
      for (const auto& [key, table] : tables_) {
        const bool owns = std::find(table.begin(), table.end(), c.source) != table.end();
        if (key.first == c.group && owns) use.copied[{c.group, c.source}].insert(key.second);
      }
    }
    uses_[in.step] = std::move(use);
  }
  void Fail(const char* why) {
    if (status_.ok()) status_ = absl::InternalError(why);
  }

  Model* const model_;
  Sampler sampler_;
  const double eager_;
  std::mt19937_64 random_;
  std::deque<Command> queue_;
  LogitsView logits_;
  SampleOutput outputs_[3];
  uint64_t done_ = 0;
  absl::Status status_;
  std::map<uint64_t, Use> uses_;  // of steps in flight
  std::map<std::pair<int32_t, int32_t>, std::vector<BlockId>> tables_;
  size_t max_in_flight_ = 0;
};

}  // namespace fathom::worker
