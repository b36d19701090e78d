#pragma once

// The worker's figures for Prometheus, refreshed from the engine's and the link's counters whenever
// they are asked for. Thread safety: Refresh from one thread at a time.

#include <prometheus/counter.h>
#include <prometheus/gauge.h>

#include "worker/engine/request.h"

namespace fathom::worker {

class WorkerMetrics {
 public:
  WorkerMetrics();
  void Refresh(const EngineStats& stats, int masters_linked, int requests);

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
};

}  // namespace fathom::worker
