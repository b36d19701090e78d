#pragma once

// What serving measures. Registered once; any thread.

#include <memory>

#include "common/metrics.h"
#include "master/serving/generation_tally.h"
#include "master/serving/model_board.h"

namespace fathom::master {

class ServingMetrics {
 public:
  ServingMetrics();
  static ServingMetrics& Get();

  prometheus::Histogram& time_to_first_token_seconds;
  prometheus::Histogram& inter_token_latency_seconds;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& routing_seconds;
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& cached_tokens;
  prometheus::Counter& predicted_cached_tokens;
  prometheus::Counter& completion_tokens;
  const std::shared_ptr<GenerationTally> generations;
  prometheus::Counter& workers_lost;
  prometheus::Counter& migrations;
  prometheus::Histogram& migration_stall_seconds;
  prometheus::Counter& resumed_here;
  prometheus::Counter& resumed_at_worker;
  prometheus::Counter& resumed_anew;
  prometheus::Counter& rejections;
  prometheus::Counter& untaken;
  prometheus::Gauge& queue_length;
  const std::shared_ptr<ModelBoard> models;
};

}  // namespace fathom::master
