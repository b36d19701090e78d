#pragma once

// Decides from heartbeats alone whether a peer is still there. What counts as silence adapts to how
// regularly the peer was heard (mean and deviation of the gaps, as in RFC 6298), between a floor
// and a ceiling; a peer that says when it will be heard next is held to that instead of the mean,
// and one that has been asked for something has no longer than the floor to say anything. Thread
// safety: none.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/time/time.h"

namespace fathom {

class SilenceJudge {
 public:
  SilenceJudge(absl::Duration interval, absl::Duration floor, int64_t now_ns)
      : floor_ns_(static_cast<double>(absl::ToInt64Nanoseconds(floor))),
        mean_ns_(static_cast<double>(absl::ToInt64Nanoseconds(interval))),
        last_heard_ns_(now_ns),
        last_beat_ns_(now_ns) {}

  // A heartbeat came: it counts for how regular the peer is.
  // `next_ns`: in so long the next one is due; 0: not told.
  void Beat(int64_t now_ns, int64_t next_ns = 0) {
    const double gap = static_cast<double>(now_ns - last_beat_ns_);
    // To come before its time is no irregularity.
    const double off = next_ns_ > 0 ? std::max(0.0, gap - next_ns_) : std::abs(gap - mean_ns_);
    deviation_ns_ += (off - deviation_ns_) / 4;
    mean_ns_ += (gap - mean_ns_) / 8;
    next_ns_ = static_cast<double>(next_ns);
    last_beat_ns_ = now_ns;
    Heard(now_ns);
  }

  // Something else came: a sign of life.
  void Heard(int64_t now_ns) {
    last_heard_ns_ = std::max(last_heard_ns_, now_ns);
    asked_ns_ = 0;
  }

  // The peer was asked for something that it answers at once.
  void Asked(int64_t now_ns) {
    if (asked_ns_ == 0) asked_ns_ = now_ns;
  }

  // The judge itself slept that long: the peer is not to blame.
  void Excuse(int64_t slept_ns) {
    last_heard_ns_ += slept_ns;
    if (asked_ns_ != 0) asked_ns_ += slept_ns;
  }

  int64_t LimitNs() const {
    const double limit = 2 * (next_ns_ > 0 ? next_ns_ : mean_ns_) + 4 * deviation_ns_;
    return static_cast<int64_t>(std::clamp(limit, floor_ns_, std::max(floor_ns_, kCeilingNs)));
  }

  bool SilentForFloor(int64_t now_ns) const {
    return static_cast<double>(now_ns - last_heard_ns_) > floor_ns_;
  }

  bool Silent(int64_t now_ns) const {
    if (asked_ns_ != 0 && static_cast<double>(now_ns - asked_ns_) > floor_ns_) return true;
    return now_ns - last_heard_ns_ > LimitNs();
  }

 private:
  static constexpr double kCeilingNs = 10e9;

  const double floor_ns_;
  double mean_ns_;
  double deviation_ns_ = 0;
  double next_ns_ = 0;
  int64_t last_heard_ns_;
  int64_t last_beat_ns_;
  int64_t asked_ns_ = 0;  // 0: it has been heard since
};

}  // namespace fathom
