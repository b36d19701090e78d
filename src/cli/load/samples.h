#pragma once

// Percentiles of what was measured. Pure.

#include <cstdint>
#include <span>
#include <vector>

namespace fathom::cli {

struct Summary {
  int64_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double max = 0;
};

// The value below which the part `q` of the values lies, interpolated between the two nearest (as
// numpy does by default). 0 of nothing. REQUIRES: ascending order, q in [0, 1].
double Percentile(std::span<const float> ascending, double q);

// All zero of nothing.
Summary Summarize(std::vector<float> values);

}  // namespace fathom::cli
