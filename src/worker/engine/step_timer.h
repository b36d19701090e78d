#pragma once

// Predicts how long a step takes from how long steps took: the deadline the engine publishes for
// its running step, past which others may call it hung. Thread safety: none.

#include <algorithm>
#include <cstdint>
#include <utility>

namespace fathom::worker {

class StepTimer {
 public:
  static constexpr int64_t kFloorNs = 2'000'000'000;
  // Before any step was seen: a device may have to warm up, a CPU may begin with a long prompt.
  static constexpr int64_t kFirstNs = 60'000'000'000;

  void Observe(int32_t num_tokens, int64_t took_ns) {
    const double weight = std::exchange(seen_, true) ? kWeight : 1;
    const double sample = static_cast<double>(took_ns) / std::max(num_tokens, 1);
    // Large steps say what a token costs, small ones mostly what a step costs: keep both.
    per_token_ns_ += (sample - per_token_ns_) * weight;
    per_step_ns_ += (static_cast<double>(took_ns) - per_step_ns_) * weight;
  }
  int64_t PredictNs(int32_t num_tokens) const {
    return static_cast<int64_t>(std::max(per_step_ns_, per_token_ns_ * num_tokens));
  }
  // How long steps take, lately.
  int64_t StepNs() const { return static_cast<int64_t>(per_step_ns_); }
  // From the moment a step starts.
  int64_t AllowedNs(int32_t num_tokens) const {
    return seen_ ? std::max(kFloorNs, 10 * PredictNs(num_tokens)) : kFirstNs;
  }

 private:
  static constexpr double kWeight = 0.1;
  bool seen_ = false;
  double per_token_ns_ = 0;
  double per_step_ns_ = 0;
};

}  // namespace fathom::worker
