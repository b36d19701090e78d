// What becomes of a generation whose worker refuses it, gives it up or is lost.

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/logging.h"
#include "common/strings.h"
#include "master/serving/failure.h"
#include "master/serving/generation.h"
#include "master/serving/serving_metrics.h"

namespace fathom::master {
namespace {

namespace asio = boost::asio;

constexpr int32_t kRefusalsMax = 5;
constexpr int32_t kCrashesMax = Condemned::kCrashesMax;
// One that got past the place each time may have been beside the cause, but not for ever.
constexpr int32_t kCrashesInAllMax = 4;
// Losses that tell nothing of their cause: one may be chance, more make it run where nothing new
// does, so many are no accident.
constexpr int32_t kLossesBeforeSuspicion = 1;
constexpr int32_t kLossesMax = 16;
constexpr absl::Duration kRetryMin = absl::Milliseconds(10);
constexpr absl::Duration kRetryMax = absl::Seconds(1);
// A worker that gave a request up does not get it back at once.
constexpr absl::Duration kGivenUpPause = absl::Milliseconds(100);
// By then one that took nothing on has been heard again, or is taken for dead.
constexpr absl::Duration kUntakenPause = absl::Seconds(1);
// From the second time on it is given twice as long: a fleet that is only slow is not asked ever
// again.
constexpr int32_t kDoublingsMax = 6;
constexpr int64_t kLateNs = 100'000'000;

}  // namespace

bool Generation::IsSuspect() const { return crashes_ > 0 || losses_ > kLossesBeforeSuspicion; }

void Generation::OnAccepted(uint32_t attempt) {
  Note("accepted");
  MarkTakenOn(attempt);
}

// On any thread: waking the strand for every request only to say that all is well costs each of
// them more than a timer that fires for nothing.
void Generation::MarkTakenOn(uint32_t attempt) {
  uint32_t known = taken_on_.load(std::memory_order_relaxed);
  while (known < attempt && !taken_on_.compare_exchange_weak(known, attempt)) {
  }
}

// A worker that has just been stopped or cut off looks idle until it was silent for long, and draws
// what has to go on elsewhere. Workers take on at once what is sent to them.
void Generation::AwaitAcceptance() {
  const absl::Duration patience =
      services_.patience * (1 << std::clamp(untaken_ - 1, 0, kDoublingsMax));
  const int64_t due_ns = services_.clock->MonotonicNs() + absl::ToInt64Nanoseconds(patience);
  acceptance_timer_.expires_after(absl::ToChronoNanoseconds(patience));
  acceptance_timer_.async_wait([weak = weak_from_this(), attempt = attempt_,
                                due_ns](const boost::system::error_code& error) {
    const std::shared_ptr<Generation> self = weak.lock();
    if (!error && self != nullptr && self->attempt_ == attempt) self->HandleUntaken(due_ns);
  });
}

// Should the worker take it on after all, it is told to cancel that attempt, and what it puts out
// is of an attempt that is over.
void Generation::HandleUntaken(int64_t due_ns) {
  if (sink_ == nullptr || !placement_ || taken_on_ >= attempt_) return;
  // Late itself, this process had no time to hear the worker either. And where there is nobody
  // else the worker may as well have it.
  const bool late = services_.clock->MonotonicNs() - due_ns > kLateNs;
  const WorkerKey worker = placement_.worker();
  if (late || !services_.migration ||
      !services_.dispatcher->AvoidSilent(worker, *request_.model, prompt_.cost, granted_ns_,
                                         kUntakenPause)) {
    return AwaitAcceptance();
  }
  ++untaken_;
  ServingMetrics::Get().untaken.Increment();
  Note("not taken on", worker.id);
  services_.fleet->Cancel(worker, request_.id, attempt_, {});
  placement_.Reset();
  Enqueue();
  LookAgainAfter(kUntakenPause);
}

void Generation::OnRejected(uint32_t attempt, const absl::Status& status,
                            absl::Duration retry_after) {
  asio::post(strand_, [self = shared_from_this(), attempt, status, retry_after] {
    if (self->heir_) return self->heir_->OnRejected(attempt, status, retry_after);
    if (self->sink_ != nullptr && attempt == self->attempt_) {
      self->HandleRejected(status, retry_after);
    }
  });
}

void Generation::HandleRejected(const absl::Status& status, absl::Duration retry_after) {
  if (!placement_) return;  // it waits for another worker already
  ServingMetrics::Get().rejections.Increment();
  Note("rejected", placement_.worker().id, Message(status));
  const WorkerKey worker = placement_.worker();
  if (absl::IsInvalidArgument(status)) {
    placement_.Reset();
    return End(status);
  }
  // A full worker has room again some time, and so has one that runs something alone; other reasons
  // rarely go away.
  const bool alone = absl::IsAborted(status);
  if (!alone && !absl::IsResourceExhausted(status) && ++refusals_ >= kRefusalsMax) {
    placement_.Reset();
    return End(
        absl::UnavailableError(absl::StrCat("no worker took the request on: ", status.message())));
  }
  last_rejection_ = status;
  // That such a worker is found is no sign of overload: the next one is not avoided any longer.
  if (!alone)
    retry_wait_ = std::clamp(std::max(retry_after, 2 * retry_wait_), kRetryMin, kRetryMax);
  const absl::Duration wait = alone ? std::clamp(retry_after, kRetryMin, kRetryMax) : retry_wait_;
  services_.dispatcher->Avoid(worker, wait);
  placement_.Reset();
  Enqueue();
  LookAgainAfter(wait);
}

// A worker that is avoided may be free again with no other news.
void Generation::LookAgainAfter(absl::Duration wait) {
  retry_timer_.expires_after(absl::ToChronoNanoseconds(wait));
  retry_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const std::shared_ptr<Generation> self = weak.lock();
    if (!error && self != nullptr && self->queued_) self->services_.dispatcher->Pump();
  });
}

void Generation::OnWorkerLost(uint32_t attempt, const WorkerLoss& loss) {
  asio::post(strand_, [self = shared_from_this(), attempt, loss] {
    if (self->heir_) return self->heir_->OnWorkerLost(attempt, loss);
    if (self->looking_) {
      return self->early_.push_back({.output = {}, .attempt = attempt, .loss = loss});
    }
    if (self->sink_ != nullptr && attempt == self->attempt_) self->HandleLost(loss);
  });
}

// It stops, or had to choose; others may have room.
void Generation::HandleGivenUp() {
  services_.fleet->Cancel(placement_.worker(), request_.id, attempt_, {});
  services_.dispatcher->Avoid(placement_.worker(), kGivenUpPause);
  HandleLost({LossKind::kLeft, absl::UnavailableError("the worker gave the request up")});
  LookAgainAfter(kGivenUpPause);
}

// What another worker needs to go on is here: the prompt, the tokens that the sink has had, and the
// seed that keys what comes next. Stop strings and half characters wait in the choices' text.
void Generation::HandleLost(const WorkerLoss& loss) {
  if (!placement_) return;  // another choice has told it before
  ServingMetrics& metrics = ServingMetrics::Get();
  metrics.workers_lost.Increment();
  Note("lost", placement_.worker().id, Message(loss.reason));
  placement_.Reset();
  if (!services_.migration) {
    return End(WithCode(absl::UnavailableError(absl::StrCat(
                            "the worker that ran this request was lost: ", loss.reason.message())),
                        "worker_lost"));
  }
  // A silence is the network's or the machine's: whatever the request does, its worker's process
  // can say so.
  if (loss.kind == LossKind::kCrash || loss.kind == LossKind::kBroken) ++losses_;
  tokens_here_ = 0;
  if (loss.kind == LossKind::kCrash && ++crashes_ == 1 && !services_.condemned->empty()) {
    // Of the like of it that ran elsewhere meanwhile.
    if (services_.condemned->WasLeft(fingerprint_)) ++crashes_;
  }
  const bool crashes = crashes_ >= kCrashesMax || crashes_ + cleared_crashes_ >= kCrashesInAllMax;
  if (crashes || losses_ > kLossesMax) {
    services_.condemned->Add(fingerprint_);
    LogError("serving", "a request is taken for the cause of lost workers",
             {{"labels.request", request_.id},
              {"labels.tenant", request_.tenant},
              {"labels.workers_lost", int64_t{losses_}}});
    return End(WithCode(absl::UnavailableError(
                            absl::StrCat("the workers that ran this request were lost, ", losses_,
                                         " of them; the last: ", loss.reason.message())),
                        "worker_lost"));
  }
  metrics.migrations.Increment();
  lost_at_ns_ = services_.clock->MonotonicNs();
  page_->SetMigrations(++migrations_);
  Enqueue();
}

absl::Status Generation::CheckCondemned() {
  if (services_.condemned->empty()) return absl::OkStatus();
  if (crashes_ == 0 && services_.condemned->IsSuspect(fingerprint_)) {
    like_crashed_ = true;
    ++crashes_;
    Note("suspect", {}, "a request like it has crashed a worker");
  }
  return services_.condemned->Check(fingerprint_);
}

// Whether what was learned while it waited leaves it its place; else it has ended, or waits for
// another. What has run on for a while has shown by itself what it does.
bool Generation::MayStillGo(Placement& placement) {
  if (like_crashed_ && !services_.condemned->IsSuspect(fingerprint_)) {
    like_crashed_ = false;
    --crashes_;
    if (!IsSuspect()) placement.ClearSuspect();
  }
  const int32_t crashes = crashes_;
  if (usage_.completion_tokens > 0 && crashes == 0) return true;
  if (absl::Status refused = CheckCondemned(); !refused.ok()) {
    End(refused);
    return false;
  }
  if (crashes_ == crashes) return true;
  placement.Reset();
  Enqueue();
  return false;
}

void Generation::ClearSuspicion() {
  placement_.ClearSuspect();
  if (crashes_ > 0) services_.condemned->ClearSuspect(fingerprint_);
  cleared_crashes_ += std::exchange(crashes_, 0) - (like_crashed_ ? 1 : 0);
  like_crashed_ = false;
}

// Its client may try again, here or at another master, and nobody would know that it has crashed a
// worker.
void Generation::TellIfSuspect(const absl::Status& status) const {
  const int32_t own = crashes_ - (like_crashed_ ? 1 : 0);
  const bool suspect = own > 0 && crashes_ < kCrashesMax && tokens_here_ < kTokensToClear;
  if (suspect && !status.ok() && heir_ == nullptr) services_.condemned->AddSuspect(fingerprint_);
}

// Equal for requests that make a worker do the same, at every master of the cluster; it tells
// nothing of the prompt to those who do not know the cluster's secret.
std::string Generation::Fingerprint() const {
  std::string text = absl::StrCat("fathom condemned\n", request_.model->name, "\n",
                                  request_.model->config_digest, "\n", request_.n, "\n");
  text.append(reinterpret_cast<const char*>(prompt_.tokens.data()),
              prompt_.tokens.size() * sizeof(TokenId));
  if (prompt_.constraint) absl::StrAppend(&text, "\n", prompt_.constraint->grammar.source);
  return HmacSha256(services_.cluster_secret, text);
}

}  // namespace fathom::master
