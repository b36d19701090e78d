#pragma once

// What serving measures. Registered once; any thread.

#include "absl/time/time.h"
#include "common/metrics.h"

namespace fathom::master {

class ServingMetrics {
 public:
  ServingMetrics();
  static ServingMetrics& Get();

  prometheus::Histogram& time_to_first_token_seconds;
  prometheus::Histogram& inter_token_latency_seconds;
  prometheus::Histogram& queue_seconds;
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& cached_tokens;
  prometheus::Counter& completion_tokens;
  // Those that began: those that ended, of any outcome, and those in flight.
  prometheus::Counter& accepted;
  prometheus::Counter& ended_ok;
  prometheus::Counter& ended_cancelled;
  prometheus::Counter& ended_error;
  prometheus::Counter& workers_lost;
  prometheus::Counter& rejections;
  prometheus::Gauge& in_flight;
  prometheus::Gauge& queue_length;
};

}  // namespace fathom::master
