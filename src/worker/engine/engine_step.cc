// A step of the engine: plan, launch, wait for the one before, commit it.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/engine/engine_core.h"

namespace fathom::worker {

namespace {

// Those of chunks that are more than the next token.
int64_t PromptTokens(const StepPlan& plan) {
  int64_t tokens = 0;
  for (const PlannedChunk& chunk : plan.chunks) {
    if (chunk.count > 1 || !chunk.samples) tokens += chunk.count;
  }
  return tokens;
}

}  // namespace

absl::StatusOr<bool> EngineCore::Step() {
  ExpireDeadlines();
  struct Step* previous = in_flight_;
  struct Step* next = previous == &steps_[0] ? &steps_[1] : &steps_[0];
  scheduler_.Plan(next_serial_, retired_, &next->plan);
  const bool some = !next->plan.chunks.empty();
  if (some) Launch(next);
  if (previous != nullptr) RETURN_IF_ERROR(AwaitAndCommit(previous));
  if (some && !next->sample_launched) LaunchSample(next);
  in_flight_ = some ? next : nullptr;
  board_->cache_news().Add(kv_.TakeChanges());
  Flush();
  Sweep();
  return some || previous != nullptr;
}

void EngineCore::Launch(struct Step* step) {
  WriteStep(next_serial_++, step);
  step->launched_ns = clock_->MonotonicNs();
  step->follows = in_flight_ != nullptr;
  if (in_flight_ == nullptr) step_started_ns_ = step->launched_ns;
  for (const PlannedChunk& chunk : step->plan.chunks) {
    RequestState* request = chunk.sequence->request;
    if (request->admitted) continue;
    request->admitted = true;
    stats_.prompt_tokens += chunk.sequence->prompt_len;
    stats_.cached_tokens += chunk.sequence->cached_tokens.value_or(0);
  }
  executor_->LaunchForward(step->forward);
  if (!step->has_grammar) LaunchSample(step);
}

void EngineCore::LaunchSample(struct Step* step) {
  if (step->has_grammar) {
    SampleInput& sample = step->sample;
    sample.mask_words = mask_words_;
    size_t row = 0;
    int32_t masks = 0;
    for (const PlannedChunk& chunk : step->plan.chunks) {
      if (!chunk.samples) continue;
      SampleRow& r = sample.rows[row++];
      if (chunk.sequence->grammar == nullptr) continue;
      r.mask = masks++;
      sample.masks.resize(static_cast<size_t>(masks) * mask_words_);
      FillMask(chunk.sequence, &r, std::span(sample.masks).last(static_cast<size_t>(mask_words_)));
    }
  }
  step->sample_launched = true;
  executor_->LaunchSample(step->serial, step->sample);
}

void EngineCore::FillMask(Sequence* s, SampleRow* row, std::span<uint32_t> mask) {
  const int64_t began_ns = clock_->MonotonicNs();
  const absl::Status status = s->grammar->FillMask(mask);
  mask_seconds_.Observe(static_cast<double>(clock_->MonotonicNs() - began_ns) * 1e-9);
  if (!status.ok()) {
    std::fill(mask.begin(), mask.end(), ~0U);
    End(s, FinishReason::kError, std::string(Message(status)));
    return;
  }
  if (row->position >= s->request->request.stop.min_tokens) return;
  // Where the grammar can only end, it ends, whatever min_tokens says.
  const std::vector<TokenId>& ends = s->request->masked_ends;
  row->may_end = true;
  for (size_t w = 0; w < mask.size() && row->may_end; ++w) {
    uint32_t others = mask[w];
    for (const TokenId id : ends) {
      if (static_cast<size_t>(id) / 32 == w) others &= ~(1U << (id % 32));
    }
    row->may_end = others == 0;
  }
}

absl::Status EngineCore::AwaitAndCommit(struct Step* step) {
  stats_.step_deadline_ns = step_started_ns_ + timer_.AllowedNs(step->plan.num_tokens);
  Publish(stats_.state);
  ASSIGN_OR_RETURN(const SampleOutput* output, executor_->Await(step->serial));
  const int64_t now = clock_->MonotonicNs();
  timer_.Observe(step->plan.num_tokens, now - step_started_ns_);
  const int64_t prompt_tokens = PromptTokens(step->plan);
  prefill_meter_.Observe(prompt_tokens, now - step_started_ns_);
  if (prompt_tokens == 0) decode_timer_.Observe(step->plan.num_tokens, now - step_started_ns_);
  step_started_ns_ = now;
  FATHOM_CHECK(output->rows.size() == step->sample.rows.size() &&
                   output->scores.size() == step->sample.scores.size(),
               "the device answered for other rows");
  ObserveIdle(*step, *output);
  retired_ = step->serial;
  ++stats_.steps;
  // At once: what follows may wait for a link that is behind, which is no hang of the device.
  stats_.step_deadline_ns = 0;
  Publish(stats_.state);
  size_t row = 0;
  size_t score = 0;
  for (const PlannedChunk& chunk : step->plan.chunks) {
    if (chunk.sequence->state != SequenceState::kEnded) CommitChunk(chunk, *output, row, score);
    row += chunk.samples ? 1 : 0;
    score += chunk.num_scored;
  }
  scheduler_.Retire(retired_);
  return absl::OkStatus();
}

void EngineCore::ObserveIdle(const struct Step& step, const SampleOutput& output) {
  const int64_t ended_before = std::exchange(device_ended_ns_, output.device_ended_ns);
  if (!step.follows || ended_before == 0 || output.device_began_ns == 0) return;
  idle_seconds_.Observe(static_cast<double>(output.device_began_ns - ended_before) * 1e-9);
}

void EngineCore::CommitChunk(const PlannedChunk& chunk, const SampleOutput& output, size_t row,
                             size_t first_score) {
  Sequence* s = chunk.sequence;
  FATHOM_CHECK(s->computed == chunk.first, "steps of a sequence out of order");
  s->computed += chunk.count;
  RowStatus status = RowStatus::kOk;
  for (int32_t i = 0; i < chunk.num_scored; ++i) {
    if (output.score_status[first_score + i] != RowStatus::kOk) status = RowStatus::kNotFinite;
    // After a preemption positions come again.
    if (static_cast<int32_t>(s->prompt_logprobs.size()) != chunk.first + i) continue;
    s->prompt_logprobs.push_back(output.scores[first_score + i]);
  }
  if (static_cast<int32_t>(s->prompt_logprobs.size()) == s->prompt_len - 1) {
    s->wants_prompt_logprobs = false;
  }
  if (chunk.samples) {
    --s->pending;
    if (status == RowStatus::kOk) status = output.rows[row].status;
  }
  if (status == RowStatus::kNotFinite) kv_.Forget(*s);
  if (status != RowStatus::kOk) {
    End(s, FinishReason::kError,
        status == RowStatus::kNotFinite ? "the model's logits are not finite"
                                        : "no token is allowed to come next");
    return;
  }
  if (!chunk.samples) {
    kv_.Commit(s);
    return;
  }
  const SampledRow& sampled = output.rows[row];
  for (int32_t i = 0; i < sampled.num_tokens && s->state != SequenceState::kEnded; ++i) {
    const size_t at = static_cast<size_t>(sampled.first_token) + i;
    CommitToken(s, output.tokens[at], output.logprobs[at]);
  }
}

void EngineCore::CommitToken(Sequence* s, TokenId token, const PositionLogprobs& logprobs) {
  SequenceOutput& out = OutputOf(s);
  if (s->num_output() == 0) out.prompt_logprobs = std::move(s->prompt_logprobs);
  if (s->cached_reported == false) {
    out.cached_tokens = s->cached_tokens.value_or(0);
    s->cached_reported = true;
  }
  out.tokens.push_back(token);
  if (s->request->request.logprobs.output) out.logprobs.push_back(logprobs);
  s->tokens.push_back(token);
  ++stats_.output_tokens;
  kv_.Commit(s);
  std::string error;
  const FinishReason reason = EndOf(s, token, &error);
  if (reason != FinishReason::kNone) End(s, reason, std::move(error));
}

// Whether the token just committed ends its sequence.
FinishReason EngineCore::EndOf(Sequence* s, TokenId token, std::string* error) {
  const auto among = [token](const std::vector<TokenId>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  if (among(s->request->end_tokens)) return FinishReason::kStop;
  if (s->grammar != nullptr) {
    // A grammar lets an end of sequence through only where it may end: ignore_eos has no say.
    if (among(options_.eos_token_ids)) return FinishReason::kStop;
    const absl::Status status = s->grammar->Accept(token);
    if (!status.ok()) {
      *error = absl::StrCat("the grammar refused a token it allowed: ", status.message());
      return FinishReason::kError;
    }
    if (s->grammar->IsFinished()) return FinishReason::kStop;
  }
  return static_cast<int32_t>(s->tokens.size()) >= s->max_len ? FinishReason::kLength
                                                              : FinishReason::kNone;
}

}  // namespace fathom::worker
