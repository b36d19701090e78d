#pragma once

// Time as a dependency: code that waits or measures takes a Clock, so that tests move time by hand.
// Thread safety: every method may be called from any thread.

#include <atomic>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace fathom {

class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time: for records and logs only; it may jump.
  virtual absl::Time Now() const = 0;
  // Nanoseconds since an arbitrary start; never goes back. For deadlines and durations.
  virtual int64_t MonotonicNs() const = 0;

  absl::Duration Monotonic() const { return absl::Nanoseconds(MonotonicNs()); }
  static const Clock* Real();
};

// Stands still until told to move.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time start = absl::UnixEpoch()) : start_(start) {}
  absl::Time Now() const override { return start_ + absl::Nanoseconds(MonotonicNs()); }
  int64_t MonotonicNs() const override { return now_ns_.load(std::memory_order_acquire); }
  void Advance(absl::Duration by) {
    now_ns_.fetch_add(absl::ToInt64Nanoseconds(by), std::memory_order_acq_rel);
  }

 private:
  const absl::Time start_;
  std::atomic<int64_t> now_ns_{0};
};

}  // namespace fathom
