#include "cli/load/arrivals.h"

#include <cmath>
#include <utility>

namespace fathom::cli {

Arrivals::Arrivals(double rate, double burstiness, uint64_t seed)
    : at_once_(std::isinf(rate)),
      random_(seed),
      gap_seconds_(burstiness, at_once_ ? 1 : 1 / (rate * burstiness)) {}

absl::Duration Arrivals::Next() {
  if (at_once_) return absl::ZeroDuration();
  return absl::Seconds(std::exchange(next_seconds_, next_seconds_ + gap_seconds_(random_)));
}

}  // namespace fathom::cli
