#pragma once

// How many generations began and what became of them. All numbers are read under the lock they
// change under, so that in every scrape what began equals what ended plus what is in flight;
// counters of their own would be read one after another, with generations moving between them. Any
// thread.

#include <prometheus/collectable.h>

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

namespace fathom::master {

enum class GenerationOutcome : uint8_t { kOk, kCancelled, kError };

class GenerationTally final : public prometheus::Collectable {
 public:
  void Begin();
  // Once for every Begin.
  void End(GenerationOutcome outcome);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  uint64_t accepted_ = 0;
  std::array<uint64_t, 3> ended_{};  // by outcome
};

}  // namespace fathom::master
