#include "worker/sampling/sampler.h"

#include <algorithm>

#include "common/status_macros.h"
#include "worker/sampling/params.h"
#include "worker/sampling/token_history.h"

namespace fathom::worker {
namespace {

static_assert(static_cast<uint8_t>(RowStatus::kNotFinite) == kernels::kRowNotFinite);
static_assert(static_cast<uint8_t>(RowStatus::kNoCandidate) == kernels::kRowNoCandidate);

}  // namespace

Sampler::Sampler(int32_t max_slots, int32_t vocab_size)
    : vocab_size_(vocab_size), slots_(max_slots) {}

void Sampler::SetUp(const SlotSetup& setup) {
  Slot& slot = slots_[setup.slot];
  const SamplingParams& p = setup.params;
  slot.bias_tokens.clear();
  slot.bias_values.clear();
  for (const LogitBias& b : p.logit_bias) {
    slot.bias_tokens.push_back(b.token);
    slot.bias_values.push_back(b.bias);
  }
  slot.end_tokens = setup.end_tokens;
  slot.min_tokens = setup.min_tokens;
  slot.row = kernels::SamplingRow{};
  slot.row.slot = setup.slot;
  slot.row.seed = p.seed;
  slot.row.choice = static_cast<uint32_t>(setup.choice);
  slot.row.temperature = p.temperature;
  slot.row.top_k = p.top_k;
  slot.row.top_p = p.top_p;
  slot.row.min_p = p.min_p;
  slot.row.presence_penalty = p.presence_penalty;
  slot.row.frequency_penalty = p.frequency_penalty;
  slot.row.repetition_penalty = p.repetition_penalty;
  slot.row.num_logprobs = setup.num_logprobs;
  slot.row.bias_tokens = slot.bias_tokens.data();
  slot.row.bias_values = slot.bias_values.data();
  slot.row.num_bias = static_cast<int32_t>(slot.bias_tokens.size());
  if (ReadsOutput(p)) {
    slot.num_counts = CountHistory(setup, vocab_size_, &slot.counts);
    slot.row.counts = slot.counts.data();
    slot.row.num_counts = &slot.num_counts;
    slot.row.counts_capacity = static_cast<int32_t>(slot.counts.size());
  }
}

absl::Status Sampler::Run(const SampleInput& input, const float* logits, int32_t logit_rows,
                          std::span<TokenId> slot_tokens, SampleOutput* output) {
  output->Clear();
  if (slot_tokens.size() < slots_.size()) {
    return absl::InvalidArgumentError("the sampler has more slots than the model");
  }
  for (const SlotSetup& setup : input.setups) {
    if (setup.slot < 0 || static_cast<size_t>(setup.slot) >= slots_.size()) {
      return absl::InvalidArgumentError("setup of a slot that does not exist");
    }
    SetUp(setup);
  }
  RETURN_IF_ERROR(Sample(input, logits, logit_rows, slot_tokens, output));
  return Score(input, logits, logit_rows, output);
}

absl::Status Sampler::Sample(const SampleInput& input, const float* logits, int32_t logit_rows,
                             std::span<TokenId> slot_tokens, SampleOutput* output) {
  if (input.rows.empty()) return absl::OkStatus();
  rows_.clear();
  int32_t width = 0;
  for (const SampleRow& row : input.rows) {
    if (row.slot < 0 || static_cast<size_t>(row.slot) >= slots_.size()) {
      return absl::InvalidArgumentError("sampling for a slot that does not exist");
    }
    const Slot& slot = slots_[row.slot];
    kernels::SamplingRow& r = rows_.emplace_back(slot.row);
    r.logit_row = row.logit_row;
    r.position = static_cast<uint32_t>(row.position);
    if (row.position < slot.min_tokens && !row.may_end) {
      r.banned = slot.end_tokens.data();
      r.num_banned = static_cast<int32_t>(slot.end_tokens.size());
    }
    if (row.mask >= 0)
      r.mask = input.masks.data() + static_cast<size_t>(row.mask) * input.mask_words;
    width = std::max(width, r.num_logprobs);
  }
  const size_t n = rows_.size();
  status_.resize(n);
  logprobs_.resize(n);
  top_tokens_.resize(n * width);
  top_logprobs_.resize(n * width);
  output->tokens.resize(n);

  kernels::SamplingArgs args{};
  args.logits = logits;
  args.num_logit_rows = logit_rows;
  args.vocab = vocab_size_;
  args.rows = rows_.data();
  args.num_rows = static_cast<int32_t>(n);
  args.max_logprobs = width;
  args.slot_tokens = slot_tokens.data();
  args.tokens = output->tokens.data();
  args.status = status_.data();
  args.logprobs = logprobs_.data();
  args.top_tokens = top_tokens_.data();
  args.top_logprobs = top_logprobs_.data();
  RETURN_IF_ERROR(kernels::cpu::SampleTokens(args, &scratch_));

  output->logprobs.resize(n);
  for (size_t i = 0; i < n; ++i) {
    output->rows.push_back({static_cast<RowStatus>(status_[i]), static_cast<int32_t>(i), 1});
    if (rows_[i].num_logprobs < 0 || status_[i] != kernels::kRowOk) continue;
    output->logprobs[i] = TakeLogprobs(i * width, output->tokens[i], rows_[i].num_logprobs);
    output->logprobs[i].chosen.logprob = logprobs_[i];
  }
  return absl::OkStatus();
}

absl::Status Sampler::Score(const SampleInput& input, const float* logits, int32_t logit_rows,
                            SampleOutput* output) {
  if (input.scores.empty()) return absl::OkStatus();
  score_rows_.clear();
  int32_t width = 0;
  for (const ScoreRow& row : input.scores) {
    score_rows_.push_back({row.logit_row, row.target, row.num_logprobs});
    width = std::max(width, row.num_logprobs);
  }
  const size_t n = score_rows_.size();
  status_.resize(n);
  logprobs_.resize(n);
  top_tokens_.resize(n * width);
  top_logprobs_.resize(n * width);

  kernels::ScoringArgs args{};
  args.logits = logits;
  args.num_logit_rows = logit_rows;
  args.vocab = vocab_size_;
  args.rows = score_rows_.data();
  args.num_rows = static_cast<int32_t>(n);
  args.max_logprobs = width;
  args.status = status_.data();
  args.logprobs = logprobs_.data();
  args.top_tokens = top_tokens_.data();
  args.top_logprobs = top_logprobs_.data();
  RETURN_IF_ERROR(kernels::cpu::ScoreTokens(args));

  output->scores.resize(n);
  for (size_t i = 0; i < n; ++i) {
    output->score_status.push_back(static_cast<RowStatus>(status_[i]));
    if (status_[i] != kernels::kRowOk) continue;
    output->scores[i] = TakeLogprobs(i * width, score_rows_[i].target, score_rows_[i].num_logprobs);
    output->scores[i].chosen.logprob = logprobs_[i];
  }
  return absl::OkStatus();
}

// `first`: where the row's best ones begin.
PositionLogprobs Sampler::TakeLogprobs(size_t first, TokenId chosen, int32_t count) const {
  PositionLogprobs result;
  result.chosen.token = chosen;
  result.top.reserve(count);
  for (int32_t i = 0; i < count && top_tokens_[first + i] >= 0; ++i) {
    result.top.push_back({top_tokens_[first + i], top_logprobs_[first + i]});
  }
  return result;
}

}  // namespace fathom::worker
