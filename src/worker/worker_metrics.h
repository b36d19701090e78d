#pragma once

// The worker's figures for Prometheus, over all its models, refreshed from the engines' and the
// link's counters whenever they are asked for. Thread safety: Refresh from one thread at a time.

#include <prometheus/counter.h>
#include <prometheus/gauge.h>

#include <array>

#include "fathom/v1/link.pb.h"
#include "worker/engine/request.h"

namespace fathom::worker {

class WorkerMetrics {
 public:
  WorkerMetrics();
  // `stats`: sums; `phases`: how many models are in each.
  void Refresh(const EngineStats& stats, const std::array<int, v1::ModelPhase_ARRAYSIZE>& phases,
               int masters_linked, int requests);

 private:
  prometheus::Counter& steps_;
  prometheus::Counter& output_tokens_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_tokens_;
  prometheus::Counter& preemptions_;
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& free_blocks_;
  prometheus::Gauge& total_blocks_;
  prometheus::Gauge& kv_usage_;
  prometheus::Gauge& masters_linked_;
  prometheus::Gauge& requests_;
  std::array<prometheus::Gauge*, v1::ModelPhase_ARRAYSIZE> models_{};  // by phase; some are none
};

}  // namespace fathom::worker
