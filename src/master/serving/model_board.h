#pragma once

// What every model does, as metrics: what ended, how long that took, what waits and who serves it.
// One version of a model against another, as a canary is judged. Set as a whole before the metrics
// are read. Any thread.

#include <prometheus/collectable.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "master/serving/model_statistics.h"

namespace fathom::master {

class ModelBoard final : public prometheus::Collectable {
 public:
  struct Row {
    std::string model;
    ModelStatistics statistics;
    size_t queued = 0;
    int32_t ready_workers = 0;
  };

  void Set(std::vector<Row> rows);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  mutable std::mutex mutex_;
  std::vector<Row> rows_;  // protected by mutex_
};

}  // namespace fathom::master
