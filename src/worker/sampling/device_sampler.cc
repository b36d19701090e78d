#include "worker/sampling/device_sampler.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/status_macros.h"
#include "worker/sampling/params.h"
#include "worker/sampling/token_history.h"

namespace fathom::worker {
namespace {

// Best tokens a row may ask for; what the API allows is less.
constexpr int32_t kMaxLogprobs = 32;

size_t Aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

struct DeviceSampler::Answer {
  Answer(char* base, int32_t rows, int32_t width) {
    const auto n = static_cast<size_t>(rows);
    const size_t best = n * static_cast<size_t>(width);
    const auto take = [&](size_t size) {
      return base + std::exchange(bytes, bytes + Aligned(size));
    };
    clock = reinterpret_cast<uint64_t*>(take((n + 1) * sizeof(uint64_t)));
    tokens = reinterpret_cast<int32_t*>(take(n * sizeof(int32_t)));
    logprobs = reinterpret_cast<float*>(take(n * sizeof(float)));
    status = reinterpret_cast<uint8_t*>(take(n));
    top_tokens = reinterpret_cast<int32_t*>(take(best * sizeof(int32_t)));
    top_logprobs = reinterpret_cast<float*>(take(best * sizeof(float)));
  }
  static size_t BytesMax(int32_t rows) {
    const auto n = static_cast<size_t>(rows);
    const size_t best = n * kMaxLogprobs;
    return Aligned((n + 1) * sizeof(uint64_t)) + 2 * Aligned(n * sizeof(int32_t)) + Aligned(n) +
           2 * Aligned(best * sizeof(int32_t));
  }

  size_t bytes = 0;
  uint64_t* clock;  // [rows + 1], as SamplingArgs says
  int32_t* tokens;
  float* logprobs;
  uint8_t* status;
  int32_t* top_tokens;
  float* top_logprobs;
};

absl::StatusOr<std::unique_ptr<DeviceSampler>> DeviceSampler::Create(kernels::Backend* backend,
                                                                     int32_t max_slots,
                                                                     int32_t max_logit_rows,
                                                                     int32_t vocab_size) {
  std::unique_ptr<DeviceSampler> sampler(
      new DeviceSampler(backend, max_slots, max_logit_rows, vocab_size));
  RETURN_IF_ERROR(sampler->Allocate());
  return sampler;
}

DeviceSampler::DeviceSampler(kernels::Backend* backend, int32_t max_slots, int32_t max_logit_rows,
                             int32_t vocab_size)
    : backend_(backend), max_rows_(max_logit_rows), vocab_size_(vocab_size), slots_(max_slots) {}

absl::Status DeviceSampler::Allocate() {
  const size_t answer_bytes = Answer::BytesMax(max_rows_);
  const auto rows = static_cast<size_t>(max_rows_);
  ASSIGN_OR_RETURN(rows_, backend_->Allocate(rows * sizeof(kernels::SamplingRow)));
  ASSIGN_OR_RETURN(scores_, backend_->Allocate(rows * sizeof(kernels::ScoringRow)));
  for (Pending& pending : pending_) {
    ASSIGN_OR_RETURN(pending.done, backend_->queue()->CreateMark());
    // The rows' answer, then the scores'.
    ASSIGN_OR_RETURN(pending.answer, backend_->queue()->AllocatePinned(2 * answer_bytes));
  }
  return absl::OkStatus();
}

absl::Status DeviceSampler::Reserve(size_t bytes, kernels::DeviceBuffer* buffer) {
  if (buffer->bytes() >= bytes) return absl::OkStatus();
  *buffer = kernels::DeviceBuffer();  // given back first
  ASSIGN_OR_RETURN(*buffer, backend_->Allocate(bytes));
  return absl::OkStatus();
}

absl::Status DeviceSampler::SetUp(const SlotSetup& setup) {
  Slot& slot = slots_[setup.slot];
  const SamplingParams& p = setup.params;
  std::vector<kernels::TokenCount> counts;
  int32_t num_counts = 0;
  if (ReadsOutput(p)) num_counts = CountHistory(setup, vocab_size_, &counts);

  const size_t num_bias = p.logit_bias.size();
  const size_t num_ends = setup.end_tokens.size();
  const size_t bias_at = 0;
  const size_t values_at = bias_at + Aligned(num_bias * sizeof(int32_t));
  const size_t ends_at = values_at + Aligned(num_bias * sizeof(float));
  const size_t used_at = ends_at + Aligned(num_ends * sizeof(int32_t));
  const size_t counts_at = used_at + Aligned(sizeof(int32_t));
  const size_t bytes = counts_at + counts.size() * sizeof(kernels::TokenCount);
  staged_.assign(bytes, 0);
  for (size_t i = 0; i < num_bias; ++i) {
    std::memcpy(&staged_[bias_at + i * sizeof(int32_t)], &p.logit_bias[i].token, sizeof(int32_t));
    std::memcpy(&staged_[values_at + i * sizeof(float)], &p.logit_bias[i].bias, sizeof(float));
  }
  if (num_ends > 0) {
    std::memcpy(&staged_[ends_at], setup.end_tokens.data(), num_ends * sizeof(int32_t));
  }
  std::memcpy(&staged_[used_at], &num_counts, sizeof(num_counts));
  if (num_counts > 0) {
    std::memcpy(&staged_[counts_at], counts.data(),
                static_cast<size_t>(num_counts) * sizeof(kernels::TokenCount));
  }
  RETURN_IF_ERROR(Reserve(bytes, &slot.lists));
  RETURN_IF_ERROR(backend_->CopyFromHost(slot.lists.data(), staged_.data(), bytes));

  char* base = slot.lists.as<char>();
  slot.min_tokens = setup.min_tokens;
  slot.end_tokens = reinterpret_cast<const int32_t*>(base + ends_at);
  slot.num_end_tokens = static_cast<int32_t>(num_ends);
  kernels::SamplingRow& row = slot.row = kernels::SamplingRow{};
  row.slot = setup.slot;
  row.seed = p.seed;
  row.choice = static_cast<uint32_t>(setup.choice);
  row.temperature = p.temperature;
  row.top_k = p.top_k;
  row.top_p = p.top_p;
  row.min_p = p.min_p;
  row.presence_penalty = p.presence_penalty;
  row.frequency_penalty = p.frequency_penalty;
  row.repetition_penalty = p.repetition_penalty;
  row.num_logprobs = std::min(setup.num_logprobs, kMaxLogprobs);
  row.bias_tokens = reinterpret_cast<const int32_t*>(base + bias_at);
  row.bias_values = reinterpret_cast<const float*>(base + values_at);
  row.num_bias = static_cast<int32_t>(num_bias);
  if (ReadsOutput(p)) {
    row.counts = reinterpret_cast<kernels::TokenCount*>(base + counts_at);
    row.num_counts = reinterpret_cast<int32_t*>(base + used_at);
    row.counts_capacity = static_cast<int32_t>(counts.size());
  }
  return absl::OkStatus();
}

absl::Status DeviceSampler::Launch(uint64_t step, const SampleInput& input, const Logits& logits,
                                   std::span<TokenId> slot_tokens) {
  if (slot_tokens.size() < slots_.size()) {
    return absl::InvalidArgumentError("the sampler has more slots than the model");
  }
  const auto known = [&](int32_t slot) {
    return slot >= 0 && static_cast<size_t>(slot) < slots_.size();
  };
  const auto fits = [&](size_t rows) { return rows <= static_cast<size_t>(max_rows_); };
  if (!fits(input.rows.size()) || !fits(input.scores.size())) {
    return absl::InvalidArgumentError("more rows than the sampler was planned for");
  }
  for (const SlotSetup& setup : input.setups) {
    if (!known(setup.slot))
      return absl::InvalidArgumentError("setup of a slot that does not exist");
    RETURN_IF_ERROR(SetUp(setup));
  }
  for (const SampleRow& row : input.rows) {
    if (!known(row.slot) || row.logit_row < 0 || row.logit_row >= logits.rows) {
      return absl::InvalidArgumentError("sampling row outside of the slots or the logits");
    }
  }
  Pending& pending = pending_[step % kSteps];
  RETURN_IF_ERROR(Sample(input, logits, slot_tokens, &pending));
  RETURN_IF_ERROR(Score(input, logits, &pending));
  return pending.done->Record();
}

absl::Status DeviceSampler::Sample(const SampleInput& input, const Logits& logits,
                                   std::span<TokenId> slot_tokens, Pending* pending) {
  pending->row_logprobs.clear();
  pending->row_width = 0;
  if (input.rows.empty()) return absl::OkStatus();
  const size_t mask_bytes = input.masks.size() * sizeof(uint32_t);
  if (mask_bytes > 0) {
    RETURN_IF_ERROR(Reserve(mask_bytes, &masks_));
    RETURN_IF_ERROR(backend_->CopyFromHost(masks_.data(), input.masks.data(), mask_bytes));
  }
  host_rows_.clear();
  for (const SampleRow& row : input.rows) {
    const Slot& slot = slots_[row.slot];
    kernels::SamplingRow& r = host_rows_.emplace_back(slot.row);
    r.logit_row = row.logit_row;
    r.position = static_cast<uint32_t>(row.position);
    if (row.position < slot.min_tokens && !row.may_end) {
      r.banned = slot.end_tokens;
      r.num_banned = slot.num_end_tokens;
    }
    if (row.mask >= 0) {
      r.mask = masks_.as<uint32_t>() + static_cast<size_t>(row.mask) * input.mask_words;
    }
    pending->row_logprobs.push_back(r.num_logprobs);
    pending->row_width = std::max(pending->row_width, r.num_logprobs);
  }
  RETURN_IF_ERROR(backend_->CopyFromHost(rows_.data(), host_rows_.data(),
                                         host_rows_.size() * sizeof(kernels::SamplingRow)));
  const auto count = static_cast<int32_t>(host_rows_.size());
  const Answer answer(static_cast<char*>(pending->answer->data()), count, pending->row_width);
  kernels::SamplingArgs args{};
  args.logits = logits.data;
  args.num_logit_rows = logits.rows;
  args.vocab = vocab_size_;
  args.rows = rows_.as<kernels::SamplingRow>();
  args.num_rows = count;
  args.max_logprobs = pending->row_width;
  args.slot_tokens = slot_tokens.data();
  args.tokens = answer.tokens;
  args.status = answer.status;
  args.logprobs = answer.logprobs;
  args.top_tokens = answer.top_tokens;
  args.top_logprobs = answer.top_logprobs;
  args.clock = answer.clock;
  return backend_->queue()->SampleTokens(args);
}

absl::Status DeviceSampler::Score(const SampleInput& input, const Logits& logits,
                                  Pending* pending) {
  pending->scores = input.scores;
  pending->score_width = 0;
  if (input.scores.empty()) return absl::OkStatus();
  host_scores_.clear();
  for (const ScoreRow& row : input.scores) {
    if (row.logit_row < 0 || row.logit_row >= logits.rows || row.target < 0 ||
        row.target >= vocab_size_ || row.num_logprobs > kMaxLogprobs) {
      return absl::InvalidArgumentError("scoring row outside of the logits");
    }
    host_scores_.push_back({row.logit_row, row.target, row.num_logprobs});
    pending->score_width = std::max(pending->score_width, row.num_logprobs);
  }
  RETURN_IF_ERROR(backend_->CopyFromHost(scores_.data(), host_scores_.data(),
                                         host_scores_.size() * sizeof(kernels::ScoringRow)));
  const auto count = static_cast<int32_t>(host_scores_.size());
  const Answer answer(static_cast<char*>(pending->answer->data()) + Answer::BytesMax(max_rows_),
                      count, pending->score_width);
  kernels::ScoringArgs args{};
  args.logits = logits.data;
  args.num_logit_rows = logits.rows;
  args.vocab = vocab_size_;
  args.rows = scores_.as<kernels::ScoringRow>();
  args.num_rows = count;
  args.max_logprobs = pending->score_width;
  args.status = answer.status;
  args.logprobs = answer.logprobs;
  args.top_tokens = answer.top_tokens;
  args.top_logprobs = answer.top_logprobs;
  return backend_->queue()->ScoreTokens(args);
}

absl::Status DeviceSampler::Collect(uint64_t step, SampleOutput* output) {
  const Pending& pending = pending_[step % kSteps];
  RETURN_IF_ERROR(pending.done->Wait());
  output->Clear();
  const auto best = [](const Answer& answer, size_t row, int32_t width, TokenId chosen,
                       int32_t count) {
    PositionLogprobs result;
    result.chosen = {chosen, answer.logprobs[row]};
    for (int32_t i = 0; i < count; ++i) {
      const size_t at = row * static_cast<size_t>(width) + static_cast<size_t>(i);
      if (answer.top_tokens[at] < 0) break;
      result.top.push_back({answer.top_tokens[at], answer.top_logprobs[at]});
    }
    return result;
  };
  auto* from = static_cast<char*>(pending.answer->data());
  const auto rows = static_cast<int32_t>(pending.row_logprobs.size());
  const Answer sampled(from, rows, pending.row_width);
  if (rows > 0) {
    output->device_began_ns = static_cast<int64_t>(sampled.clock[0]);
    output->device_ended_ns =
        static_cast<int64_t>(*std::max_element(sampled.clock + 1, sampled.clock + 1 + rows));
  }
  output->tokens.assign(sampled.tokens, sampled.tokens + rows);
  output->logprobs.resize(rows);
  for (int32_t i = 0; i < rows; ++i) {
    output->rows.push_back({static_cast<RowStatus>(sampled.status[i]), i, 1});
    if (pending.row_logprobs[i] < 0 || sampled.status[i] != kernels::kRowOk) continue;
    output->logprobs[i] =
        best(sampled, i, pending.row_width, sampled.tokens[i], pending.row_logprobs[i]);
  }
  const auto num_scores = static_cast<int32_t>(pending.scores.size());
  const Answer scored(from + Answer::BytesMax(max_rows_), num_scores, pending.score_width);
  output->scores.resize(num_scores);
  for (int32_t i = 0; i < num_scores; ++i) {
    output->score_status.push_back(static_cast<RowStatus>(scored.status[i]));
    if (scored.status[i] != kernels::kRowOk) continue;
    output->scores[i] = best(scored, i, pending.score_width, pending.scores[i].target,
                             pending.scores[i].num_logprobs);
  }
  return absl::OkStatus();
}

}  // namespace fathom::worker
