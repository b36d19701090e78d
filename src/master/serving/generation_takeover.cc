// How a generation takes over what another one of the same request has, and how one goes on without
// a client.

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/strings.h"
#include "master/serving/failure.h"
#include "master/serving/generation.h"
#include "master/serving/serving_metrics.h"

namespace fathom::master {
namespace {

namespace asio = boost::asio;

// Of a held request, besides its tokens.
constexpr int64_t kHeldBytes = 4096;

// Nobody listens.
class NoSink final : public GenerationSink {
 public:
  absl::Status OnDelta(GenerationDelta /*delta*/) override { return absl::OkStatus(); }
  void OnEnd(const absl::Status& /*status*/, const GenerationUsage& /*usage*/) override {}
};

absl::Status OtherRequest() {
  return WithCode(
      absl::AlreadyExistsError("another request runs under this idempotency key; use a new key"),
      "idempotency_key_reused");
}

}  // namespace

void Generation::LookForRunning() {
  const std::shared_ptr<Generation> other = std::exchange(predecessor_, nullptr);
  looking_ = true;
  if (other == nullptr) return AskWorkers();
  asio::post(other->strand_, [self = shared_from_this(), other] {
    auto takeover = std::make_shared<std::optional<Takeover>>();
    const bool same = other->request_.resumption.context == self->request_.resumption.context;
    if (same) *takeover = other->HandOver(self);
    const auto line = *takeover ? (*takeover)->line : nullptr;
    auto give = [self, same, attempt = other->attempt_, takeover] {
      asio::post(self->strand_, [self, same, attempt, takeover] {
        self->HandleGiven(same, attempt, std::move(*takeover));
      });
    };
    if (line == nullptr) return give();
    // Behind all that is under way to the other one already, and before this one can hand over.
    asio::post(other->strand_, [self, other, line, give = std::move(give)] {
      line->Connect(self);
      other->heir_ = nullptr;
      give();
    });
  });
}

void Generation::HandleGiven(bool same, uint32_t attempt, std::optional<Takeover> takeover) {
  if (sink_ == nullptr) {
    // This client has gone again meanwhile, and nobody else has what runs.
    if (takeover && takeover->placement) {
      services_.fleet->Cancel(takeover->placement.worker(), request_.id, attempt, {});
    }
    return;
  }
  if (!same) return End(OtherRequest());
  attempt_ = std::max(attempt_, attempt);
  if (!takeover) return AskWorkers();
  ServingMetrics::Get().resumed_here.Increment();
  Adopt(*std::move(takeover));
}

// What it has goes to `heir`, and so does what still comes. Nothing when it has none: it has ended,
// or nothing was sent for it yet.
std::optional<Generation::Takeover> Generation::HandOver(const std::shared_ptr<Generation>& heir) {
  const bool ended = sink_ == nullptr;
  if (ended && !end_) return std::nullopt;
  // Logprobs are not kept; the heir computes all again. So it does where its name leads to another
  // model by now: one answer is never of two.
  const bool incomplete = looking_ || choices_.empty() || request_.logprobs.output ||
                          request_.logprobs.prompt ||
                          request_.model->name != heir->request_.model->name;
  std::optional<Takeover> takeover;
  if (!incomplete) {
    takeover.emplace();
    takeover->attempt = attempt_;
    takeover->placement = std::move(placement_);
    takeover->charged = charged_;
    takeover->line = line_.lock();
    if (takeover->line != nullptr) takeover->line->Pause();
    takeover->losses = losses_;
    takeover->crashes = crashes_;
    takeover->cleared_crashes = cleared_crashes_;
    takeover->migrations = migrations_;
    if (end_) takeover->status = *end_;
    for (size_t i = 0; i < choices_.size(); ++i) {
      SubmissionOutput& output = takeover->choices.emplace_back();
      output.attempt = attempt_;
      output.choice = static_cast<int32_t>(i);
      output.tokens = choices_[i].tokens;
      output.finish = choices_[i].finish;
      output.cached_tokens = usage_.cached_tokens;
    }
    heir_ = heir;
    taken_over_ = true;
  }
  ReleaseHold();
  if (!ended) {
    End(WithCode(absl::CancelledError("the client has come back on another connection"),
                 "taken_over"));
  }
  return takeover;
}

void Generation::AskWorkers() {
  auto line = std::make_shared<NewsLine>(shared_from_this());
  line_ = line;
  services_.fleet->Claim({.request_id = request_.id,
                          .model = request_.model->name,
                          .resume_context = request_.resumption.context,
                          .cost = prompt_.cost},
                         std::move(line), [self = shared_from_this()](ClaimOutcome outcome) {
                           auto shared = std::make_shared<ClaimOutcome>(std::move(outcome));
                           asio::post(self->strand_,
                                      [self, shared] { self->HandleClaimed(std::move(*shared)); });
                         });
}

void Generation::HandleClaimed(ClaimOutcome outcome) {
  // The highest attempt is the one whose tokens went to the client last.
  std::sort(outcome.found.begin(), outcome.found.end(),
            [](const ClaimedWork& a, const ClaimedWork& b) { return a.attempt > b.attempt; });
  const bool wanted = sink_ != nullptr;
  for (size_t i = wanted ? 1 : 0; i < outcome.found.size(); ++i) {
    services_.fleet->Cancel(outcome.found[i].worker, request_.id, outcome.found[i].attempt, {});
  }
  if (!wanted) return;
  if (outcome.other_context) return End(OtherRequest());
  attempt_ = std::max(attempt_, outcome.attempt);
  if (outcome.found.empty()) {
    looking_ = false;
    early_.clear();
    // It may run where nobody could be asked, under a number that its client does not know of: what
    // comes from there later must not be taken for what comes from here.
    attempts_left_out_ = services_.attempt_stride;
    if (attempt_ > 0) {
      ServingMetrics::Get().resumed_anew.Increment();
      Note("not found anywhere", {}, "it is run again");
    }
    return Enqueue();
  }
  ServingMetrics::Get().resumed_at_worker.Increment();
  ClaimedWork& work = outcome.found.front();
  Takeover takeover;
  takeover.attempt = work.attempt;
  takeover.choices = std::move(work.choices);
  takeover.placement = services_.dispatcher->Adopt(work.worker, *request_.model, prompt_.cost);
  if (!takeover.placement) {
    services_.fleet->Cancel(work.worker, request_.id, work.attempt, {});
  }
  Adopt(std::move(takeover));
}

void Generation::Adopt(Takeover takeover) {
  looking_ = false;
  attempt_ = takeover.attempt;
  placement_ = std::move(takeover.placement);
  placed_ = placed_ || placement_;
  charged_ = takeover.charged;
  if (takeover.line != nullptr) line_ = takeover.line;
  losses_ = takeover.losses;
  crashes_ = std::max(crashes_, takeover.crashes);
  cleared_crashes_ = takeover.cleared_crashes;
  migrations_ = takeover.migrations;
  granted_ns_ = services_.clock->MonotonicNs();
  const std::string worker = placement_ ? placement_.worker().id : "";
  page_->SetAttempt(worker, attempt_);
  page_->SetMigrations(migrations_);
  std::vector<bool> runs(choices_.size(), false);
  replaying_ = true;
  for (SubmissionOutput& output : takeover.choices) {
    output.attempt = attempt_;
    if (absl::Status checked = CheckOutput(output); !checked.ok()) return End(checked);
    runs[output.choice] = true;
    if (output.finish == FinishReason::kError) return End(FailureOf(output));
    if (output.finish == FinishReason::kCancelled) {
      output.finish = FinishReason::kNone;
      runs[output.choice] = false;
    }
    Choice& choice = choices_[output.choice];
    if (absl::Status emitted = Emit(choice, std::move(output)); !emitted.ok()) return End(emitted);
    if (sink_ == nullptr) return;
  }
  replaying_ = false;
  Note("taken over", worker, absl::StrCat(usage_.completion_tokens, " tokens so far"));
  if (num_finished_ == request_.n) return End(absl::OkStatus());
  if (!takeover.status.ok()) return End(takeover.status);
  // A choice that ended before a migration is known to the master that is gone alone.
  bool whole = static_cast<bool>(placement_);
  for (size_t i = 0; i < choices_.size(); ++i) whole = whole && (runs[i] || choices_[i].finished());
  if (whole) return ReplayEarlyNews();
  early_.clear();
  if (placement_) {
    services_.fleet->Cancel(placement_.worker(), request_.id, attempt_, {});
    placement_.Reset();
  }
  Enqueue();
}

void Generation::ReplayEarlyNews() {
  for (EarlyNews& news : std::exchange(early_, {})) {
    if (news.output) {
      HandleOutput(*std::move(news.output));
    } else if (sink_ != nullptr && news.attempt == attempt_) {
      HandleLost(news.loss);
    }
  }
}

// What it may hold until its time is over.
int64_t Generation::HeldBytes() const {
  return kHeldBytes + static_cast<int64_t>(sizeof(TokenId)) *
                          (usage_.prompt_tokens + int64_t{request_.n} * prompt_.max_tokens);
}

void Generation::Leave(const absl::Status& status) {
  if (sink_ == nullptr || held_) return;
  const bool holds = request_.resumption.hold > absl::ZeroDuration() &&
                     !request_.resumption.context.empty() && !choices_.empty();
  if (!holds) return End(status);
  if (!services_.holds->Take(HeldBytes())) {
    Note("not held", {}, "no memory is left for requests without a client");
    return End(status);
  }
  held_ = true;
  Note("held", {}, absl::FormatDuration(request_.resumption.hold));
  std::exchange(sink_, std::make_shared<NoSink>())->OnEnd(status, usage_);
  hold_timer_.expires_after(absl::ToChronoNanoseconds(request_.resumption.hold));
  // Keeps it alive until then.
  hold_timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (error) return;
    self->ReleaseHold();
    self->Cancel(absl::CancelledError("its client has not come back"));
  });
}

void Generation::ReleaseHold() {
  if (!std::exchange(held_, false)) return;
  services_.holds->Give(HeldBytes());
  hold_timer_.cancel();
  end_.reset();
}

}  // namespace fathom::master
