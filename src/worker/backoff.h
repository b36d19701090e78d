#pragma once

// When to try again: full jitter (a uniform wait below a bound that doubles), so that a fleet that
// lost its master does not come back all at once. Thread safety: none.

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "common/random.h"

namespace fathom::worker {

class Backoff {
 public:
  Backoff(absl::Duration first, absl::Duration max, Random* random)
      : first_(first), max_(max), bound_(first), random_(random) {}

  absl::Duration Next() {
    const absl::Duration wait = bound_ * random_->NextUnit();
    bound_ = std::min(bound_ * 2, max_);
    return wait;
  }
  // The peer said that trying soon is of no use.
  absl::Duration Longest() {
    bound_ = max_;
    return Next();
  }
  void Reset() { bound_ = first_; }

 private:
  absl::Duration first_;
  absl::Duration max_;
  absl::Duration bound_;
  Random* random_;
};

}  // namespace fathom::worker
