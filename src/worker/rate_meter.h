#pragma once

// How fast a counter grows, lately: a mean that forgets within a few seconds. Thread safety: none.

#include <cmath>
#include <cstdint>

namespace fathom::worker {

class RateMeter {
 public:
  // Notes the counter's value at `now_ns`; returns its growth a second.
  double Update(int64_t value, int64_t now_ns) {
    if (last_ns_ == 0 || now_ns <= last_ns_) {
      last_ns_ = now_ns;
      last_value_ = value;
      return rate_;
    }
    const double seconds = static_cast<double>(now_ns - last_ns_) * 1e-9;
    const double now = static_cast<double>(value - last_value_) / seconds;
    rate_ += (now - rate_) * (1 - std::exp(-seconds / kMemorySeconds));
    last_ns_ = now_ns;
    last_value_ = value;
    return rate_;
  }

 private:
  static constexpr double kMemorySeconds = 2;

  int64_t last_ns_ = 0;
  int64_t last_value_ = 0;
  double rate_ = 0;
};

}  // namespace fathom::worker
