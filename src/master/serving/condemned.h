#pragma once

// Requests that have crashed their workers, by fingerprint: refused for a while when they come
// again. Bounded; any thread.

#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "master/serving/failure.h"

namespace fathom::master {

class Condemned {
 public:
  explicit Condemned(const Clock* clock) : clock_(clock) {}
  Condemned(const Condemned&) = delete;
  Condemned& operator=(const Condemned&) = delete;

  void Add(const std::string& fingerprint) {
    const std::lock_guard lock(mutex_);
    const int64_t now_ns = clock_->MonotonicNs();
    std::erase_if(until_ns_, [now_ns](const auto& entry) { return entry.second <= now_ns; });
    // Who makes thousands of them is not to fill memory; the workers' restarts bound it already.
    if (until_ns_.size() < kMax) until_ns_[fingerprint] = now_ns + kForNs;
  }

  // INVALID_ARGUMENT while it is refused.
  absl::Status Check(const std::string& fingerprint) const {
    const std::lock_guard lock(mutex_);
    const auto found = until_ns_.find(fingerprint);
    const int64_t left_ns = found == until_ns_.end() ? 0 : found->second - clock_->MonotonicNs();
    if (left_ns <= 0) return absl::OkStatus();
    return WithCode(
        absl::InvalidArgumentError(absl::StrCat(
            "a request like this one has crashed the workers that ran it; it is refused for ",
            left_ns / 1'000'000'000 + 1, " s")),
        "request_crashes_workers");
  }

  bool empty() const {
    const std::lock_guard lock(mutex_);
    return until_ns_.empty();
  }

 private:
  static constexpr size_t kMax = 4096;
  static constexpr int64_t kForNs = 600'000'000'000;

  const Clock* const clock_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, int64_t> until_ns_;  // protected by mutex_
};

}  // namespace fathom::master
