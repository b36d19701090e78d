#include "master/serving/generation.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/serving/failure.h"
#include "master/serving/quota_gate.h"
#include "master/serving/serving_metrics.h"

namespace fathom::master {
namespace {

namespace asio = boost::asio;

// Longer prompts, and those with a grammar, are prepared on the CPU pool: two changes of threads
// cost less than holding up an I/O thread.
constexpr size_t kInlinePromptBytes = 2048;
// The worker has the same limit in whole milliseconds, so it may give up a moment before us.
constexpr int64_t kDeadlineSlackNs = 5'000'000;

bool IsPreparedInline(const GenerationRequest& request) {
  if (request.grammar || !request.tool_use.tools.empty()) return false;
  size_t bytes = 0;
  if (const auto* chat = std::get_if<ChatPrompt>(&request.prompt)) {
    bytes = chat->messages_json.size() + chat->tools_json.size() + chat->template_args_json.size();
  } else if (const auto* text = std::get_if<TextPrompt>(&request.prompt)) {
    bytes = text->text.size();
  }  // ids need no work
  return bytes <= kInlinePromptBytes;
}

// Before the prompt has any: about how many tokens it has at least.
int64_t LeastPrompt(const GenerationRequest& request) {
  constexpr int64_t kBytesPerToken = 16;
  int64_t bytes = 0;
  if (const auto* chat = std::get_if<ChatPrompt>(&request.prompt)) {
    bytes = static_cast<int64_t>(chat->messages_json.size());
  } else if (const auto* text = std::get_if<TextPrompt>(&request.prompt)) {
    bytes = static_cast<int64_t>(text->text.size());
  } else {
    bytes = kBytesPerToken * static_cast<int64_t>(std::get<TokenPrompt>(request.prompt).ids.size());
  }
  return bytes / kBytesPerToken;
}

int64_t LeastCost(const GenerationRequest& request) {
  const int64_t answer = std::min(request.stop.max_tokens, request.model->context_length);
  return LeastPrompt(request) + request.n * answer;
}

}  // namespace

Generation::Generation(const GenerationServices& services, asio::any_io_executor strand,
                       GenerationRequest request, std::shared_ptr<GenerationSink> sink)
    : services_(services),
      strand_(std::move(strand)),
      request_(std::move(request)),
      tenant_(DeriveTenantKeys(services.cluster_secret, request_.tenant)),
      sink_(std::move(sink)),
      deadline_timer_(strand_),
      retry_timer_(strand_),
      acceptance_timer_(strand_),
      hold_timer_(strand_) {}

Generation::~Generation() = default;

void Generation::Start(std::shared_ptr<Generation> predecessor) {
  predecessor_ = std::move(predecessor);
  attempt_ = request_.resumption.attempt;
  started_ns_ = services_.clock->MonotonicNs();
  page_ = services_.book->Open({.id = request_.id,
                                .call_id = request_.call_id,
                                .model = request_.model->name,
                                .tenant = request_.tenant});
  deadline_ns_ = started_ns_ + absl::ToInt64Nanoseconds(request_.timeout);
  ServingMetrics::Get().generations->Begin();
  absl::StatusOr<QuotaCharge> quota = TakeQuota(services_.quotas, request_, LeastPrompt(request_));
  if (!quota.ok()) return End(quota.status());
  quota_ = *std::move(quota);
  absl::StatusOr<Admission::Ticket> ticket =
      services_.admission->Enter(request_.tenant, LeastCost(request_));
  if (!ticket.ok()) return End(ticket.status());
  ticket_ = *std::move(ticket);
  ArmDeadline();
  if (IsPreparedInline(request_)) return HandlePrepared(PreparePrompt(request_));
  const bool accepted = services_.pool->Submit([self = shared_from_this()] {
    // Safe off the strand: the request does not change before its prompt is there.
    absl::StatusOr<PreparedPrompt> prepared = PreparePrompt(self->request_);
    asio::post(self->strand_, [self, prepared = std::move(prepared)]() mutable {
      self->HandlePrepared(std::move(prepared));
    });
  });
  if (!accepted) {
    End(WithRetryAfter(absl::ResourceExhaustedError("too many prompts wait for tokenising"),
                       absl::Seconds(1)));
  }
}

void Generation::ArmDeadline() {
  deadline_timer_.expires_after(absl::ToChronoNanoseconds(request_.timeout));
  deadline_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const std::shared_ptr<Generation> self = weak.lock();
    if (!error && self != nullptr) self->HandleDeadline();
  });
}

void Generation::HandlePrepared(absl::StatusOr<PreparedPrompt> prepared) {
  if (sink_ == nullptr) return;
  if (!prepared.ok()) return End(prepared.status());
  prompt_ = *std::move(prepared);
  times_.prepare_ns = services_.clock->MonotonicNs() - started_ns_;
  usage_.prompt_tokens = static_cast<int32_t>(prompt_.tokens.size());
  page_->SetUsage(usage_, 0);
  Note("prepared", {}, absl::StrCat(usage_.prompt_tokens, " tokens"));
  fingerprint_ = Fingerprint();
  if (absl::Status refused = CheckCondemned(); !refused.ok()) return End(refused);
  if (absl::Status settled = services_.admission->Settle(ticket_, prompt_.cost); !settled.ok()) {
    return End(settled);
  }
  quota_.Settle(ReservedTokens(request_, usage_.prompt_tokens, prompt_.max_tokens));
  choices_.reserve(request_.n);
  for (int32_t i = 0; i < request_.n; ++i) {
    choices_.push_back(
        Choice{.text = ChoiceText(request_.model->tokenizer, request_.stop_strings,
                                  request_.stop.min_tokens,
                                  MakeOutputParsers(request_, prompt_.reasoning_start, i))});
  }
  if (request_.resumption.look) return LookForRunning();
  Enqueue();
}

void Generation::Enqueue() {
  queued_ns_ = services_.clock->MonotonicNs();
  page_->SetState(RequestState::kQueued);
  Note("queued");
  // The grant may come before Enqueue returns; it is posted, so it finds the handle set.
  queued_ = services_.dispatcher->Enqueue(
      {.model = request_.model,
       .tenant_hash = tenant_.hash,
       .tenant_weight = request_.tenant_weight,
       .priority = request_.priority,
       .cost = prompt_.cost,
       .again = placed_,
       .suspect = IsSuspect(),
       .prompt = PromptBlocks(prompt_.tokens, tenant_.cache_salt),
       .grant = [self = shared_from_this()](Placement placement) {
         // std::function wants copies; a placement has none.
         auto shared = std::make_shared<Placement>(std::move(placement));
         asio::post(self->strand_, [self, shared] { self->HandleGrant(std::move(*shared)); });
       }});
}

void Generation::HandleGrant(Placement placement) {
  queued_.reset();
  if (sink_ == nullptr) return;  // the placement goes back
  if (!MayStillGo(placement)) return;
  placement_ = std::move(placement);
  // What comes again for what it has lost stands before all others, at no charge.
  charged_ = charged_ || !placed_;
  placed_ = true;
  predicted_cached_tokens_ = placement_.cached_tokens();
  tokens_here_ = 0;
  attempt_ += 1 + std::exchange(attempts_left_out_, 0);
  granted_ns_ = services_.clock->MonotonicNs();
  page_->SetAttempt(placement_.worker().id, attempt_);
  Note("submitted", placement_.worker().id,
       losses_ == 0
           ? ""
           : absl::StrCat("attempt ", attempt_, ", ", usage_.completion_tokens, " tokens so far"));
  times_.queue_ns += granted_ns_ - queued_ns_;
  ServingMetrics::Get().queue_seconds.Observe(static_cast<double>(granted_ns_ - queued_ns_) * 1e-9);
  std::shared_ptr<NewsLine> line = line_.lock();
  if (line == nullptr) line_ = line = std::make_shared<NewsLine>(shared_from_this());
  const absl::Status submitted =
      services_.fleet->Submit(placement_.worker(), MakeSubmission(), std::move(line));
  if (!submitted.ok()) return HandleRejected(submitted, absl::ZeroDuration());
  AwaitAcceptance();
}

Submission Generation::MakeSubmission() const {
  Submission submission;
  submission.request_id = request_.id;
  submission.attempt = attempt_;
  submission.model = request_.model->name;
  submission.priority = request_.priority;
  submission.tenant_hash = tenant_.hash;
  submission.tenant_weight = request_.tenant_weight;
  submission.cost = prompt_.cost;
  submission.remaining = absl::Nanoseconds(deadline_ns_ - services_.clock->MonotonicNs());
  submission.cache_salt = tenant_.cache_salt;
  submission.resume_context = request_.resumption.context;
  submission.fingerprint = fingerprint_;
  submission.crashes = crashes_;
  submission.prompt = prompt_.tokens;
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].finished()) continue;
    submission.choices.push_back({.index = static_cast<int32_t>(i), .tokens = choices_[i].tokens});
  }
  submission.sampling = request_.sampling;
  submission.stop = request_.stop;
  submission.stop.max_tokens = prompt_.max_tokens;
  submission.logprobs = request_.logprobs;
  if (prompt_logprobs_sent_) submission.logprobs.prompt.reset();
  if (prompt_.constraint) submission.grammar = prompt_.constraint->grammar;
  return submission;
}

void Generation::Note(std::string_view what, std::string_view worker, std::string_view detail) {
  page_->Note(services_.clock->MonotonicNs(), what, worker, detail);
}

void Generation::OnOutput(SubmissionOutput output) {
  asio::post(strand_, [self = shared_from_this(), output = std::move(output)]() mutable {
    if (self->heir_) return self->heir_->OnOutput(std::move(output));
    self->HandleOutput(std::move(output));
  });
}

void Generation::HandleOutput(SubmissionOutput output) {
  if (looking_) {
    const uint32_t attempt = output.attempt;
    return early_.push_back({.output = std::move(output), .attempt = attempt, .loss = {}});
  }
  // Of an attempt that was given up.
  if (sink_ == nullptr || !placement_ || output.attempt != attempt_) return;
  if (absl::Status checked = CheckOutput(output); !checked.ok()) {
    LogError("serving", "a worker broke the output contract",
             {{"labels.request", request_.id},
              {"labels.worker", placement_.worker().id},
              {"error.message", std::string(Message(checked))}});
    return End(checked);
  }
  MarkTakenOn(attempt_);
  Choice& choice = choices_[output.choice];
  if (choice.finished()) return;  // overshot a stop string; dropped and not billed
  if (output.finish == FinishReason::kError) return End(FailureOf(output));
  if (output.finish == FinishReason::kCancelled) {
    if (output.taken_over) {
      taken_over_ = true;
      placement_.Reset();  // first: it is not ours to cancel any more
      ReleaseHold();       // a client that comes back here is to look for it elsewhere
      return End(WithCode(absl::CancelledError("another master has taken the request over"),
                          "taken_over"));
    }
    if (PastDeadline()) return End(FailureOf(output));
    return HandleGivenUp();
  }
  if (absl::Status emitted = Emit(choice, std::move(output)); !emitted.ok()) return End(emitted);
  if (sink_ != nullptr && num_finished_ == request_.n) End(absl::OkStatus());
}

absl::Status Generation::CheckOutput(const SubmissionOutput& output) const {
  if (output.choice < 0 || output.choice >= request_.n) {
    return absl::InternalError(absl::StrCat("a worker sent choice ", output.choice));
  }
  const Choice& choice = choices_[output.choice];
  if (choice.finished()) return absl::OkStatus();
  if (output.first_index != static_cast<int32_t>(choice.tokens.size())) {
    return absl::InternalError(absl::StrCat("a worker sent token ", output.first_index, " where ",
                                            choice.tokens.size(), " was next"));
  }
  if (choice.tokens.size() + output.tokens.size() > static_cast<size_t>(prompt_.max_tokens)) {
    return absl::InternalError("a worker sent more tokens than asked for");
  }
  if (request_.logprobs.output && output.logprobs.size() != output.tokens.size()) {
    return absl::InternalError("a worker sent tokens without their logprobs");
  }
  return absl::OkStatus();
}

// Where the client's tokens end a delta ends too.
absl::Status Generation::Emit(Choice& choice, SubmissionOutput output) {
  const std::vector<int32_t>& have = request_.resumption.have;
  const int64_t mark = static_cast<size_t>(output.choice) < have.size()
                           ? have[output.choice] - static_cast<int64_t>(choice.tokens.size())
                           : 0;
  const auto num_tokens = static_cast<int64_t>(output.tokens.size());
  if (mark <= 0 || mark > num_tokens ||
      (mark == num_tokens && output.finish == FinishReason::kNone)) {
    return EmitPart(choice, std::move(output));
  }
  SubmissionOutput rest = output;
  rest.first_index += static_cast<int32_t>(mark);
  rest.tokens.erase(rest.tokens.begin(), rest.tokens.begin() + mark);
  rest.prompt_logprobs.clear();
  if (!rest.logprobs.empty()) {
    rest.logprobs.erase(rest.logprobs.begin(), rest.logprobs.begin() + mark);
  }
  output.finish = FinishReason::kNone;
  output.tokens.resize(mark);
  if (!output.logprobs.empty()) output.logprobs.resize(mark);
  RETURN_IF_ERROR(EmitPart(choice, std::move(output)));
  // It may have met a stop string already.
  return choice.finished() ? absl::OkStatus() : EmitPart(choice, std::move(rest));
}

absl::Status Generation::EmitPart(Choice& choice, SubmissionOutput output) {
  GenerationDelta delta{
      .choice = output.choice, .attempt = output.attempt, .finish = output.finish};
  if (!output.prompt_logprobs.empty() && !std::exchange(prompt_logprobs_sent_, true)) {
    delta.prompt_logprobs = std::move(output.prompt_logprobs);
  }
  if (choice.tokens.empty()) {
    usage_.cached_tokens = std::max(usage_.cached_tokens, output.cached_tokens);
    if (request_.logprobs.prompt && output.choice == 0) delta.prompt_tokens = prompt_.tokens;
  }
  size_t num_used = 0;
  while (num_used < output.tokens.size() && !choice.text.stopped()) {
    RETURN_IF_ERROR(choice.text.Push(output.tokens[num_used++], delta));
  }
  output.tokens.resize(num_used);
  if (output.logprobs.size() > num_used) output.logprobs.resize(num_used);
  if (choice.text.stopped()) {
    delta.finish = FinishReason::kStop;
    if (output.finish == FinishReason::kNone && placement_) {
      services_.fleet->Cancel(placement_.worker(), request_.id, attempt_, {output.choice});
    }
  }
  if (delta.finish != FinishReason::kNone) RETURN_IF_ERROR(choice.text.Finish(delta));
  choice.tokens.insert(choice.tokens.end(), output.tokens.begin(), output.tokens.end());
  usage_.completion_tokens += static_cast<int32_t>(num_used);
  usage_.reasoning_tokens += choice.text.TakeReasoningTokens();
  page_->SetUsage(usage_, services_.clock->MonotonicNs());
  delta.tokens = std::move(output.tokens);
  if (request_.logprobs.output) delta.logprobs = std::move(output.logprobs);
  if (!replaying_) {
    tokens_here_ += static_cast<int32_t>(num_used);
    if (tokens_here_ >= kTokensToClear) ClearSuspicion();
    Measure(choice, num_used);
  }
  if (delta.finish != FinishReason::kNone) {
    choice.finish = delta.finish;
    ++num_finished_;
  }
  return sink_->OnDelta(std::move(delta));
}

absl::Status Generation::FailureOf(const SubmissionOutput& output) const {
  if (output.bad_request && prompt_.constraint) {
    // What follows is the worker's view of a grammar that we composed.
    const std::string reason = output.error.substr(0, output.error.find('\n'));
    return BadField(prompt_.constraint->field, reason);
  }
  if (PastDeadline()) {
    return absl::DeadlineExceededError("the request took longer than its time limit");
  }
  return absl::InternalError(output.error.empty() ? "the worker failed to run this request"
                                                  : output.error);
}

bool Generation::PastDeadline() const {
  return services_.clock->MonotonicNs() + kDeadlineSlackNs >= deadline_ns_;
}

void Generation::Measure(Choice& choice, size_t num_tokens) {
  if (num_tokens == 0) return;
  const int64_t now_ns = services_.clock->MonotonicNs();
  ServingMetrics& metrics = ServingMetrics::Get();
  if (lost_at_ns_ != 0) {
    const int64_t stall_ns = now_ns - std::exchange(lost_at_ns_, 0);
    metrics.migration_stall_seconds.Observe(static_cast<double>(stall_ns) * 1e-9);
    Note("resumed", placement_.worker().id);
  }
  if (!std::exchange(any_output_, true)) {
    Note("first token", placement_.worker().id);
    metrics.time_to_first_token_seconds.Observe(static_cast<double>(now_ns - started_ns_) * 1e-9);
  }
  if (choice.last_output_ns != 0) {
    metrics.inter_token_latency_seconds.Observe(
        static_cast<double>(now_ns - choice.last_output_ns) * 1e-9 /
        static_cast<double>(num_tokens));
  }
  choice.last_output_ns = now_ns;
}

void Generation::RecordTimes(bool ok) {
  const int64_t now_ns = services_.clock->MonotonicNs();
  times_.total_ns = now_ns - started_ns_;
  if (granted_ns_ != 0) times_.compute_ns = now_ns - granted_ns_;
  services_.statistics->Record(request_.model->name, ok, times_, services_.clock->Now());
}

void Generation::HandleDeadline() {
  if (sink_ == nullptr) return;
  if (placement_) {
    return End(absl::DeadlineExceededError("the request took longer than its time limit"));
  }
  // Still waiting: say for what.
  std::string reason(Describe(services_.dispatcher->Obstacle(*request_.model)));
  if (last_rejection_) absl::StrAppend(&reason, "; last refusal: ", last_rejection_->message());
  End(WithRetryAfter(
      absl::UnavailableError(absl::StrCat("no worker took the request in time: ", reason)),
      absl::Seconds(1)));
}

void Generation::Cancel(const absl::Status& status) {
  if (sink_ != nullptr) End(status);
}

void Generation::CancelWaiting(const absl::Status& status) {
  if (queued_) Cancel(status);
}

void Generation::End(const absl::Status& status) {
  TellIfSuspect(status);
  if (queued_) services_.dispatcher->Remove(*std::exchange(queued_, std::nullopt));
  if (placement_) {
    if (!status.ok()) {
      services_.fleet->Cancel(placement_.worker(), request_.id, attempt_, {});
    }
    placement_.Reset();
  }
  const int64_t used = usage_.prompt_tokens + usage_.completion_tokens;
  quota_.End(placed_ && !taken_over_ ? used : 0);
  if (charged_ && !taken_over_) {
    services_.dispatcher->Refund(request_.model->name, tenant_.hash, request_.tenant_weight,
                                 request_.priority, prompt_.cost - used);
  }
  ticket_.Reset();
  line_.reset();
  looking_ = false;
  early_.clear();
  deadline_timer_.cancel();
  retry_timer_.cancel();
  acceptance_timer_.cancel();
  const RequestState state = status.ok()                 ? RequestState::kOk
                             : absl::IsCancelled(status) ? RequestState::kCancelled
                                                         : RequestState::kError;
  services_.book->Close(page_, state, std::string(Message(status)));
  ServingMetrics& metrics = ServingMetrics::Get();
  RecordTimes(status.ok());
  if (!taken_over_) {  // whoever goes on counts all
    metrics.prompt_tokens.Increment(usage_.prompt_tokens);
    metrics.cached_tokens.Increment(usage_.cached_tokens);
    metrics.predicted_cached_tokens.Increment(predicted_cached_tokens_);
    metrics.completion_tokens.Increment(usage_.completion_tokens);
  }
  metrics.generations->End(status.ok()                 ? GenerationOutcome::kOk
                           : absl::IsCancelled(status) ? GenerationOutcome::kCancelled
                                                       : GenerationOutcome::kError);
  if (held_) end_ = status;
  std::exchange(sink_, nullptr)->OnEnd(status, usage_);
}

}  // namespace fathom::master
