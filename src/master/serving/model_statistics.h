#pragma once

// What every model has done since the start and where the time went: sums that dialects report, by
// model, whichever dialect asked. Any thread.

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace fathom::master {

struct DurationSum {
  uint64_t count = 0;
  uint64_t ns = 0;

  void Add(int64_t duration_ns) {
    ++count;
    ns += static_cast<uint64_t>(duration_ns < 0 ? 0 : duration_ns);
  }
};

// Where one generation spent its time.
struct GenerationTimes {
  int64_t total_ns = 0;
  int64_t prepare_ns = 0;  // rendering and tokenising
  int64_t queue_ns = 0;    // waiting for a worker, all attempts together
  int64_t compute_ns = 0;  // on the last worker
};

struct ModelStatistics {
  DurationSum success;  // of generations that ended well, as are the three below
  DurationSum failure;  // of those that failed or were cancelled
  DurationSum prepare;
  DurationSum queue;
  DurationSum compute;
  absl::Time last = absl::InfinitePast();  // when one ended, well or not
};

class StatisticsBook {
 public:
  void Record(const std::string& model, bool ok, const GenerationTimes& times, absl::Time now) {
    const std::lock_guard lock(mutex_);
    ModelStatistics& statistics = models_[model];
    statistics.last = now;
    if (!ok) return statistics.failure.Add(times.total_ns);
    statistics.success.Add(times.total_ns);
    statistics.prepare.Add(times.prepare_ns);
    statistics.queue.Add(times.queue_ns);
    statistics.compute.Add(times.compute_ns);
  }

  ModelStatistics Of(std::string_view model) const {
    const std::lock_guard lock(mutex_);
    const auto found = models_.find(model);
    return found == models_.end() ? ModelStatistics() : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, ModelStatistics, std::less<>> models_;  // protected by mutex_
};

}  // namespace fathom::master
