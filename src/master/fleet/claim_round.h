#pragma once

// One claim put to every worker: gathers the answers, and ends when all have come or it has waited
// long enough for those who do not answer (a stopped worker, a cut link).
//
// Thread safety: every method may be called from any thread. `done` is called once, without a lock.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>

#include "master/fleet/fleet.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {

class ClaimRound {
 public:
  ClaimRound(size_t asked, int64_t now_ns, std::function<void(ClaimOutcome)> done)
      : asked_at_ns_(now_ns), waiting_(asked), done_(std::move(done)) {
    if (asked == 0) End();
  }
  ClaimRound(const ClaimRound&) = delete;
  ClaimRound& operator=(const ClaimRound&) = delete;

  // False when the round is over already: nobody will look at what was found.
  bool Answer(WorkerSession::ClaimAnswer answer) {
    {
      const std::lock_guard lock(mutex_);
      if (done_ == nullptr) return false;
      outcome_.attempt = std::max(outcome_.attempt, answer.attempt);
      outcome_.other_context = outcome_.other_context || answer.other_context;
      if (answer.work) outcome_.found.push_back(*std::move(answer.work));
      if (--waiting_ > 0) return true;
    }
    End();
    return true;
  }

  // Those who have not answered are not waited for any more; for less time once it was found.
  bool Late(int64_t now_ns) const {
    const std::lock_guard lock(mutex_);
    return now_ns - asked_at_ns_ >= (outcome_.found.empty() ? kPatienceNs : kPatienceFoundNs);
  }

  void End() {
    std::function<void(ClaimOutcome)> done;
    ClaimOutcome outcome;
    {
      const std::lock_guard lock(mutex_);
      done = std::exchange(done_, nullptr);
      outcome = std::move(outcome_);
    }
    if (done) done(std::move(outcome));
  }

  bool over() const {
    const std::lock_guard lock(mutex_);
    return done_ == nullptr;
  }

 private:
  static constexpr int64_t kPatienceNs = 500'000'000;
  static constexpr int64_t kPatienceFoundNs = 100'000'000;

  const int64_t asked_at_ns_;
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  size_t waiting_;
  ClaimOutcome outcome_;
  std::function<void(ClaimOutcome)> done_;  // null: it is over
};

}  // namespace fathom::master
