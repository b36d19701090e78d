#include "worker/engine/engine_core.h"

#include <algorithm>

#include "common/block_hash.h"
#include "common/check.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/engine/validate.h"

namespace fathom::worker {
namespace {

bool Among(const std::vector<TokenId>& ids, TokenId token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

}  // namespace

EngineCore::EngineCore(const EngineOptions& options, Executor* executor, int32_t mask_words,
                       OutputSink* sink, const Clock* clock, StatsBoard* board)
    : options_(options),
      executor_(executor),
      mask_words_(mask_words),
      sink_(sink),
      clock_(clock),
      board_(board),
      kv_(options.kv, options.plan, options.prefix_cache),
      scheduler_({options.plan.max_sequences, options.max_step_tokens, options.max_logit_rows},
                 &kv_),
      mask_seconds_(
          AddHistogram("fathom_worker_grammar_mask_seconds",
                       "Time to find the tokens that a grammar allows next",
                       {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.1})),
      idle_seconds_(AddHistogram("fathom_worker_device_idle_seconds",
                                 "Time the device stood still between two steps, the second of "
                                 "which was launched while the first one ran",
                                 {2e-6, 3e-6, 4e-6, 5e-6, 6e-6, 8e-6, 1e-5, 1.2e-5, 1.5e-5, 2e-5,
                                  3e-5, 5e-5, 1e-4, 1e-3})) {}

EngineCore::~EngineCore() {
  if (in_flight_ != nullptr) (void)executor_->Await(in_flight_->serial);
}

void EngineCore::Add(EngineRequest request) {
  if (const auto old = by_id_.find(request.id); old != by_id_.end()) {
    EndRequest(old->second, FinishReason::kCancelled, "superseded by a higher attempt");
  }
  auto state = std::make_unique<RequestState>();
  // What is no salt of ours may be no secret: it becomes one here, and its names are this worker's.
  const std::string salt = request.cache_salt.size() == kCacheSaltBytes
                               ? request.cache_salt
                               : HmacSha256(options_.prefix_secret, request.cache_salt);
  state->prefix_scope = MakePrefixScope(salt, options_.kv_scope, request.adapter_id);
  state->end_tokens = request.stop.stop_token_ids;
  state->masked_ends = state->end_tokens;
  for (const TokenId id : options_.eos_token_ids) {
    state->masked_ends.push_back(id);
    if (!request.stop.ignore_eos) state->end_tokens.push_back(id);
  }
  for (const ChoiceStart& choice : request.choices) {
    auto s = std::make_unique<Sequence>();
    s->request = state.get();
    s->choice = choice.index;
    s->tokens = request.prompt;
    s->prompt_len = static_cast<int32_t>(request.prompt.size());
    s->tokens.insert(s->tokens.end(), choice.tokens.begin(), choice.tokens.end());
    s->max_len = MaxLength(request, options_);
    if (!choice.tokens.empty()) s->recovery_len = static_cast<int32_t>(s->tokens.size());
    s->wants_prompt_logprobs = request.logprobs.prompt.has_value() && s->prompt_len > 1 &&
                               choice.tokens.empty() && state->sequences.empty();
    state->sequences.push_back(std::move(s));
  }
  state->request = std::move(request);
  RequestState* raw = state.get();
  requests_.push_back(std::move(state));
  by_id_[raw->request.id] = raw;
  if (raw->request.deadline_ns != 0) deadlines_.insert({raw->request.deadline_ns, raw});
  if (raw->request.grammar.has_value()) {
    ++num_compiling_;
    raw->compiling = true;
  } else {
    Activate(raw);
  }
}

void EngineCore::OnCompiled(const std::string& id, uint32_t attempt,
                            absl::StatusOr<std::unique_ptr<GrammarState>> grammar) {
  const auto it = by_id_.find(id);
  if (it == by_id_.end() || it->second->request.attempt != attempt || !it->second->compiling) {
    return;
  }
  RequestState* request = it->second;
  request->compiling = false;
  --num_compiling_;
  for (const auto& s : request->sequences) {
    absl::Status status = grammar.status();
    if (status.ok()) {
      auto copy = (*grammar)->Clone();
      status = copy.status();
      if (status.ok()) s->grammar = std::move(copy).value();
    }
    for (int32_t i = s->prompt_len; status.ok() && i < s->length(); ++i) {
      if (i == s->length() - 1 && Among(options_.eos_token_ids, s->tokens[i])) continue;
      status = s->grammar->Accept(s->tokens[i]);
    }
    if (!status.ok() && s->state != SequenceState::kEnded) {
      OutputOf(s.get()).bad_request = absl::IsInvalidArgument(status);
      End(s.get(), FinishReason::kError, std::string(Message(status)));
    }
  }
  if (request->num_live() > 0) Activate(request);
}

// Choices that came complete end at once; the others wait for admission.
void EngineCore::Activate(RequestState* request) {
  for (const auto& s : request->sequences) {
    if (s->state == SequenceState::kEnded) continue;
    const bool some = s->num_output() > 0;
    const bool stopped = some && Among(request->end_tokens, s->tokens.back());
    if (stopped ||
        (s->grammar != nullptr &&
         (s->grammar->IsFinished() || (some && Among(options_.eos_token_ids, s->tokens.back()))))) {
      End(s.get(), FinishReason::kStop, "");
    } else if (s->length() >= s->max_len) {
      End(s.get(), FinishReason::kLength, "");
    }
  }
  if (request->num_live() > 0) scheduler_.Enqueue(request);
}

void EngineCore::Cancel(const std::string& id, uint32_t attempt,
                        const std::vector<int32_t>& choices) {
  const auto it = by_id_.find(id);
  if (it == by_id_.end() || it->second->request.attempt > attempt) return;
  for (const auto& s : it->second->sequences) {
    if (s->state == SequenceState::kEnded) continue;
    if (choices.empty() || std::find(choices.begin(), choices.end(), s->choice) != choices.end()) {
      End(s.get(), FinishReason::kCancelled, "");
    }
  }
}

void EngineCore::CancelAll() {
  while (!by_id_.empty()) EndRequest(by_id_.begin()->second, FinishReason::kCancelled, "");
}

void EngineCore::EndRequest(RequestState* request, FinishReason reason, const std::string& error) {
  for (const auto& s : request->sequences) {
    if (s->state != SequenceState::kEnded) End(s.get(), reason, error);
  }
}

// The output of this sequence in the step that is being committed.
SequenceOutput& EngineCore::OutputOf(Sequence* s) {
  const auto [it, added] = output_index_.try_emplace(s, outputs_.size());
  if (!added) return outputs_[it->second];
  SequenceOutput& out = outputs_.emplace_back();
  out.request_id = s->request->request.id;
  out.attempt = s->request->request.attempt;
  out.choice = s->choice;
  out.first_index = s->num_output();
  return out;
}

void EngineCore::End(Sequence* s, FinishReason reason, std::string error) {
  FATHOM_CHECK(s->state != SequenceState::kEnded, "a sequence ends twice");
  SequenceOutput& out = OutputOf(s);
  out.finish = reason;
  out.error = std::move(error);
  scheduler_.End(s, retired_);
  s->grammar.reset();
  sweep_ = true;
  RequestState* request = s->request;
  if (request->num_live() > 0) return;
  if (request->compiling) --num_compiling_;
  request->compiling = false;
  deadlines_.erase({request->request.deadline_ns, request});
  by_id_.erase(request->request.id);
  gone_.emplace_back(request->request.id, request->request.attempt);
}

void EngineCore::ExpireDeadlines() {
  const int64_t now = clock_->MonotonicNs();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    EndRequest(deadlines_.begin()->second, FinishReason::kError, "the deadline passed");
  }
}

void EngineCore::Flush() {
  if (outputs_.empty()) return;
  output_index_.clear();
  sink_->OnStep(std::exchange(outputs_, {}));
}

// Forgets requests whose last step has retired.
void EngineCore::Sweep() {
  if (!sweep_) return;
  bool waiting = false;
  std::erase_if(requests_, [&](const std::unique_ptr<RequestState>& request) {
    if (request->num_live() > 0) return false;
    for (const auto& s : request->sequences) {
      if (s->slot >= 0) {
        waiting = true;
        return false;
      }
    }
    return true;
  });
  sweep_ = waiting;
}

void EngineCore::Publish(EngineState state) {
  stats_.state = state;
  stats_.waiting = scheduler_.num_waiting() + static_cast<int32_t>(num_compiling_);
  stats_.running = scheduler_.num_running();
  stats_.free_blocks = kv_.num_available();
  stats_.total_blocks = kv_.num_total();
  stats_.preemptions = scheduler_.num_preemptions();
  stats_.queued_tokens = scheduler_.queued_tokens();
  stats_.prefill_tokens_per_second = prefill_meter_.TokensPerSecond();
  stats_.step_ns = decode_timer_.StepNs();
  board_->Publish(stats_);
}

void EngineCore::ForgetFigures() {
  stats_.steps = 0;
  stats_.output_tokens = 0;
  stats_.prompt_tokens = 0;
  stats_.cached_tokens = 0;
  prefill_meter_ = {};
  decode_timer_ = {};
}

}  // namespace fathom::worker
