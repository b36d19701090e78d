#pragma once

// Runs a trace over a fleet in virtual time under one policy. The same arguments give the same
// result.

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "benchmarks/router_sim/sim_engine.h"
#include "benchmarks/router_sim/trace.h"

namespace fathom::router_sim {

struct SimulationOptions {
  size_t num_workers = 16;
  EngineShape shape;
  double warm_up_s = 0;  // what is sent before is run and not measured
  double end_s = 0;      // so is what is sent afterwards
  uint64_t seed = 0;     // of the policy's draws
};

// Of the requests measured.
struct SimulationResult {
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t best_tokens = 0;       // what one cache of all workers that forgets nothing would have
  int64_t predicted_tokens = 0;  // what the policy expected of the cache
  double ttft_p50_s = 0;
  double ttft_p99_s = 0;
  double ttft_mean_s = 0;
  double tpot_mean_s = 0;  // between two output tokens, mean over requests
  double imbalance = 0;    // tokens computed: the most of a worker over the mean
  double utilization = 0;  // share of the time in which a worker ran a step, mean
};

absl::StatusOr<SimulationResult> Simulate(const Trace& trace, std::string_view policy,
                                          const SimulationOptions& options);

}  // namespace fathom::router_sim
