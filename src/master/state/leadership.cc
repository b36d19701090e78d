#include "master/state/leadership.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"
#include "master/state/state_metrics.h"

namespace fathom::master {
namespace {

constexpr char kLeaseName[] = "leader";
constexpr absl::Duration kReleaseLimit = absl::Milliseconds(500);

}  // namespace

Leadership::Leadership(LeadershipOptions options, Database* database)
    : options_(std::move(options)), database_(database), state_(std::make_shared<State>(options_)) {
  // Looked at more often than asked for, so that the log and the gauge tell the end in time.
  ticker_ = std::make_unique<Periodic>(
      options_.period / 4,
      [this, turn = 0]() mutable {
        if (turn++ % 4 == 0) Tick();
        Observe();
      },
      absl::ZeroDuration());
}

Leadership::~Leadership() { Resign(); }

void Leadership::Resign() {
  ticker_ = nullptr;
  const int64_t now_ns = options_.clock->MonotonicNs();
  bool led = false;
  {
    const std::lock_guard lock(state_->mutex);
    led = state_->term.Held(now_ns);
    state_->term.Lost();
    state_->resigned = true;
  }
  Observe();
  if (!led) return;
  database_
      ->Run(kReleaseLimit,
            [holder = options_.holder](SqlSession& session) {
              return ReleaseLease(session, kLeaseName, holder);
            })
      .IgnoreError();  // it ends by itself
}

std::optional<uint64_t> Leadership::term() const {
  const int64_t now_ns = options_.clock->MonotonicNs();
  const std::lock_guard lock(state_->mutex);
  if (!state_->term.Held(now_ns)) return std::nullopt;
  return state_->term.epoch();
}

LeaseView Leadership::leader() const {
  const std::lock_guard lock(state_->mutex);
  return state_->leader;
}

bool Leadership::HasResigned(const State& state) {
  const std::lock_guard lock(state.mutex);
  return state.resigned;
}

void Leadership::Tick() {
  if (state_->asking.exchange(true)) return;
  database_->Post(
      options_.ttl,
      [state = state_, options = options_](SqlSession& session) -> absl::Status {
        if (HasResigned(*state)) return absl::OkStatus();
        const int64_t sent_ns = options.clock->MonotonicNs();
        ASSIGN_OR_RETURN(const LeaseView lease,
                         TakeLease(session, kLeaseName, options.holder, options.ttl));
        Heard(*state, options, sent_ns, lease);
        if (!HasResigned(*state)) return absl::OkStatus();
        // Another connection may have given it back before this one took it once more.
        return ReleaseLease(session, kLeaseName, options.holder);
      },
      [state = state_](const absl::Status&) { state->asking = false; });
}

void Leadership::Heard(State& state, const LeadershipOptions& options, int64_t sent_ns,
                       const LeaseView& lease) {
  const std::lock_guard lock(state.mutex);
  if (lease.holder == options.holder && !state.resigned) {
    state.term.Renewed(sent_ns, lease.epoch);
  } else {
    state.term.Lost();
  }
  state.leader = {lease.holder, std::max(state.leader.epoch, lease.epoch)};
}

void Leadership::Observe() {
  const int64_t now_ns = options_.clock->MonotonicNs();
  const std::lock_guard lock(state_->mutex);
  const bool leads = state_->term.Held(now_ns);
  StateMetrics::Get().leader.Set(leads ? 1 : 0);
  StateMetrics::Get().epoch.Set(static_cast<double>(state_->leader.epoch));
  if (std::exchange(state_->told_leader, leads) == leads) return;
  LogInfo("state", leads ? "this master leads" : "this master does not lead any more",
          {{"labels.epoch", static_cast<int64_t>(state_->term.epoch())}});
}

}  // namespace fathom::master
