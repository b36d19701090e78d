#include "cli/load/samples.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fathom::cli {

double Percentile(std::span<const float> ascending, double q) {
  if (ascending.empty()) return 0;
  const double rank = q * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<size_t>(std::floor(rank));
  const size_t above = std::min(below + 1, ascending.size() - 1);
  const double part = rank - std::floor(rank);
  return ascending[below] + part * (static_cast<double>(ascending[above]) - ascending[below]);
}

Summary Summarize(std::vector<float> values) {
  Summary summary;
  if (values.empty()) return summary;
  std::sort(values.begin(), values.end());
  summary.count = static_cast<int64_t>(values.size());
  summary.mean =
      std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  summary.p50 = Percentile(values, 0.50);
  summary.p90 = Percentile(values, 0.90);
  summary.p95 = Percentile(values, 0.95);
  summary.p99 = Percentile(values, 0.99);
  summary.max = values.back();
  return summary;
}

}  // namespace fathom::cli
