#pragma once

// Requests that have crashed their workers, by fingerprint: refused for a while when they come
// again, here or at another master, which is told. What was on one worker that crashed is suspect
// for a shorter while: its like begins as one that has a crash behind it. Of that every master
// hears from the worker itself, and from the request's master where its client left before it was
// known whether it would crash another. The latter alone counts against its like that runs already:
// what many ask for at once is on all workers, and would be condemned for who is beside it.
// Bounded; any thread.

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/expiring_names.h"
#include "master/fleet/fleet.h"
#include "master/serving/failure.h"

namespace fathom::master {

class Condemned {
 public:
  // Tells the other masters; called without a lock.
  using Tell = std::function<void(const std::string& name, absl::Duration remaining)>;
  // A request that was on as many workers when they crashed is taken for the cause.
  static constexpr int32_t kCrashesMax = 2;

  Condemned(const Clock* clock, Tell tell) : clock_(clock), tell_(std::move(tell)) {}
  Condemned(const Condemned&) = delete;
  Condemned& operator=(const Condemned&) = delete;

  void Add(const std::string& fingerprint) { AddOwn(fingerprint, kFor); }
  void AddSuspect(const std::string& fingerprint) { AddOwn(SuspectName(fingerprint), kSuspectFor); }
  // Told by another master: a fingerprint, or the name of a suspect.
  void Learn(const std::string& name, absl::Duration remaining) {
    const std::lock_guard lock(mutex_);
    const int64_t now_ns = clock_->MonotonicNs();
    names_.Add(name, now_ns + absl::ToInt64Nanoseconds(remaining), now_ns);
  }
  // Told by a worker: what was on it when it crashed.
  void OnCrash(const std::vector<LastRun>& runs) {
    for (const LastRun& run : runs) {
      if (run.crashes + 1 >= kCrashesMax) {
        Add(run.fingerprint);
        continue;
      }
      const std::lock_guard lock(mutex_);
      const int64_t now_ns = clock_->MonotonicNs();
      crashed_.Add(run.fingerprint, now_ns + absl::ToInt64Nanoseconds(kSuspectFor), now_ns);
    }
  }
  // It, or its like, has run well.
  void ClearSuspect(const std::string& fingerprint) {
    const std::lock_guard lock(mutex_);
    names_.Remove(SuspectName(fingerprint));
    crashed_.Remove(fingerprint);
  }

  // INVALID_ARGUMENT while it is refused.
  absl::Status Check(const std::string& fingerprint) const {
    const int64_t left_ns = LeftNs(names_, fingerprint);
    if (left_ns <= 0) return absl::OkStatus();
    return WithCode(
        absl::InvalidArgumentError(absl::StrCat(
            "a request like this one has crashed the workers that ran it; it is refused for ",
            left_ns / 1'000'000'000 + 1, " s")),
        "request_crashes_workers");
  }
  // One that its client left.
  bool WasLeft(const std::string& fingerprint) const {
    return LeftNs(names_, SuspectName(fingerprint)) > 0;
  }
  bool IsSuspect(const std::string& fingerprint) const {
    return LeftNs(crashed_, fingerprint) > 0 || WasLeft(fingerprint);
  }

  bool empty() const {
    const std::lock_guard lock(mutex_);
    return names_.size() == 0 && crashed_.size() == 0;
  }

 private:
  // Who makes thousands of them is not to fill memory; the workers' restarts bound it already.
  static constexpr size_t kMax = 4096;
  static constexpr absl::Duration kFor = absl::Minutes(10);
  // Whoever ran beside the cause is suspect too.
  static constexpr absl::Duration kSuspectFor = absl::Minutes(1);

  static std::string SuspectName(const std::string& fingerprint) {
    return Sha256("suspect\n" + fingerprint);
  }
  void AddOwn(const std::string& name, absl::Duration remaining) {
    Learn(name, remaining);
    tell_(name, remaining);
  }
  int64_t LeftNs(const ExpiringNames& names, const std::string& name) const {
    const std::lock_guard lock(mutex_);
    return names.LeftNs(name, clock_->MonotonicNs());
  }

  const Clock* const clock_;
  const Tell tell_;
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  ExpiringNames names_{kMax};
  ExpiringNames crashed_{kMax};  // of last words: no room of what is condemned
};

}  // namespace fathom::master
