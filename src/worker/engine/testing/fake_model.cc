#include "worker/engine/testing/fake_model.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::worker {
namespace {

uint64_t Mix(uint64_t x) {  // the finalizer of MurmurHash3
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

}  // namespace

FakeModel::FakeModel(FakeModelOptions options) : options_(std::move(options)) {
  config_.vocab_size = options_.vocab_size;
  config_.max_context = options_.max_context;
  config_.eos_token_ids = options_.eos;
  config_.digest = "fake";
  spec_.block_tokens = options_.block_tokens;
  if (options_.full_group) spec_.groups.push_back({KvGroupKind::kFull, {0}, 0, 8, 0});
  if (options_.window > 0) {
    spec_.groups.push_back({KvGroupKind::kSlidingWindow, {1}, options_.window, 8, 0});
  }
}

uint64_t FakeModel::Extend(uint64_t history, TokenId token) {
  return Mix(history * 0x9e3779b97f4a7c15ULL + static_cast<uint64_t>(token) + 1);
}

void FakeModel::LogitsOf(uint64_t history, TokenId last, const FakeModelOptions& options,
                         std::span<float> logits) {
  for (size_t id = 0; id < logits.size(); ++id) {
    // Coarse on purpose: ties happen.
    logits[id] = static_cast<float>(Mix(history ^ (id * 0x2545f4914f6cdd1dULL)) % 256) / 32.0F;
  }
  if (last == options.poison) logits[1] = std::numeric_limits<float>::quiet_NaN();
}

absl::Status FakeModel::AllocateKv(const KvPlan& plan) {
  for (size_t g = 0; g < spec_.groups.size(); ++g) {
    Group group;
    group.window = spec_.groups[g].window_tokens;
    group.cells.resize(static_cast<size_t>(plan.num_blocks[g]) * spec_.block_tokens);
    group.tables.assign(plan.max_sequences, std::vector<BlockId>(plan.max_blocks_per_sequence, -1));
    groups_.push_back(std::move(group));
  }
  slot_tokens_.assign(plan.max_sequences, -1);
  return absl::OkStatus();
}

absl::StatusOr<size_t> FakeModel::CellOf(const Group& group, int32_t slot, int32_t position) const {
  const BlockId block = group.tables[slot][position / spec_.block_tokens];
  if (block < 0) return absl::InternalError(absl::StrCat("no block for position ", position));
  return static_cast<size_t>(block) * spec_.block_tokens + position % spec_.block_tokens;
}

// The history before `position`, after checking everything its query sees.
absl::StatusOr<uint64_t> FakeModel::ReadPast(const Group& group, int32_t slot,
                                             int32_t position) const {
  const int32_t first = group.window == 0 ? 0 : std::max(0, position - group.window + 1);
  uint64_t history = 0;
  for (int32_t p = first; p < position; ++p) {
    ASSIGN_OR_RETURN(const size_t at, CellOf(group, slot, p));
    const Cell& cell = group.cells[at];
    const bool chained = p == first ? (p > 0 || cell.history == Extend(0, cell.token))
                                    : cell.history == Extend(history, cell.token);
    if (cell.position != p || !chained) {
      return absl::InternalError(absl::StrCat("KV of slot ", slot, " position ", p,
                                              " is not its own: holds position ", cell.position));
    }
    history = cell.history;
  }
  return history;
}

absl::StatusOr<LogitsView> FakeModel::Forward(const ForwardInput& input) {
  if (options_.before_step) options_.before_step();
  if (options_.lose_device_at > 0 && input.step >= options_.lose_device_at) {
    return absl::InternalError("the device fell off the bus");
  }
  for (const BlockTableUpdate& u : input.table_updates) {
    std::copy_n(input.block_ids.begin() + u.first_block, u.num_blocks,
                groups_[u.group].tables[u.slot].begin() + u.first_index);
  }
  for (const BlockCopy& c : input.copies) {
    std::vector<Cell>& cells = groups_[c.group].cells;
    std::copy_n(cells.begin() + static_cast<std::ptrdiff_t>(c.source) * spec_.block_tokens,
                spec_.block_tokens,
                cells.begin() + static_cast<std::ptrdiff_t>(c.destination) * spec_.block_tokens);
  }
  logits_.assign(input.logit_rows.size() * options_.vocab_size, 0);
  for (const SequenceInput& s : input.sequences) RETURN_IF_ERROR(RunSequence(input, s));
  return LogitsView{logits_.data(), static_cast<int32_t>(input.logit_rows.size()),
                    options_.vocab_size};
}

absl::Status FakeModel::RunSequence(const ForwardInput& input, const SequenceInput& s) {
  for (int32_t i = 0; i < s.query_len; ++i) {
    const int32_t row = s.first_token + i;
    const int32_t position = s.context_len + i;
    if (input.positions[row] != position) return absl::InternalError("wrong position");
    TokenId token = input.token_ids[row];
    if (token == kTokenFromSlot) token = slot_tokens_[s.slot];
    uint64_t history = 0;
    for (size_t g = 0; g < groups_.size(); ++g) {
      ASSIGN_OR_RETURN(const uint64_t past, ReadPast(groups_[g], s.slot, position));
      // A window of one sees nothing of the past: the other group knows.
      if (g > 0 && past != history && groups_[g].window > 1) {
        return absl::InternalError("the groups disagree about the past");
      }
      if (g == 0) history = past;
    }
    const uint64_t now = Extend(history, token);
    for (Group& group : groups_) {
      ASSIGN_OR_RETURN(const size_t at, CellOf(group, s.slot, position));
      group.cells[at] = {now, position, token};
    }
    for (int32_t r = s.first_logit_row; r < s.first_logit_row + s.num_logit_rows; ++r) {
      if (input.logit_rows[r] != row) continue;
      LogitsOf(now, token, options_,
               std::span(logits_).subspan(static_cast<size_t>(r) * options_.vocab_size,
                                          options_.vocab_size));
    }
  }
  return absl::OkStatus();
}

}  // namespace fathom::worker
