#pragma once

// When the requests of an open loop arrive: gaps drawn from a gamma distribution, so that one
// number says how bursty traffic is. Deterministic for a seed. One thread.

#include <cstdint>
#include <random>

#include "absl/time/time.h"

namespace fathom::cli {

class Arrivals {
 public:
  // `rate` a second on average; infinity: all at once. `burstiness` is the shape of the gamma
  // distribution: 1 is Poisson, below 1 burstier, above 1 steadier. REQUIRES: both positive.
  Arrivals(double rate, double burstiness, uint64_t seed);

  // The next arrival, since the start. The first one is at 0.
  absl::Duration Next();

 private:
  const bool at_once_;
  std::mt19937_64 random_;
  std::gamma_distribution<double> gap_seconds_;
  double next_seconds_ = 0;
};

}  // namespace fathom::cli
