#pragma once

// When a crashed process is started again: at once at first, then with doubling pauses; never again
// when it keeps crashing soon after its start. A pure function of the times it is told.

#include <algorithm>
#include <optional>

#include "absl/time/time.h"

namespace fathom::cli {

class RestartPolicy {
 public:
  static constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
  static constexpr absl::Duration kPauseMax = absl::Seconds(10);
  // A run this long counts as a success and forgets the crashes before it.
  static constexpr absl::Duration kGoodRun = absl::Seconds(30);
  static constexpr int kCrashesMax = 8;

  // How long to wait before the next start; nothing: give up.
  std::optional<absl::Duration> OnCrash(absl::Duration ran_for) {
    if (ran_for >= kGoodRun) crashes_ = 0;
    if (++crashes_ > kCrashesMax) return std::nullopt;
    return std::min(kPauseMax, kFirstPause * (1 << (crashes_ - 1)));
  }

 private:
  int crashes_ = 0;  // in a row
};

}  // namespace fathom::cli
