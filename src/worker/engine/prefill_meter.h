#pragma once

// How many prompt tokens the engine computes a second while it computes any: over the steps with
// prompt tokens of the last seconds of such steps. What decodes beside them costs is in it, as it
// is in the time a next prompt will take. Thread safety: none.

#include <cmath>
#include <cstdint>

namespace fathom::worker {

class PrefillMeter {
 public:
  void Observe(int64_t prompt_tokens, int64_t took_ns) {
    if (prompt_tokens <= 0 || took_ns <= 0) return;
    const double seconds = static_cast<double>(took_ns) * 1e-9;
    const double keep = std::exp(-seconds / kMemorySeconds);
    tokens_ = tokens_ * keep + static_cast<double>(prompt_tokens);
    seconds_ = seconds_ * keep + seconds;
  }
  // 0 before the first.
  double TokensPerSecond() const { return seconds_ > 0 ? tokens_ / seconds_ : 0; }

 private:
  static constexpr double kMemorySeconds = 2;

  double tokens_ = 0;
  double seconds_ = 0;
};

}  // namespace fathom::worker
