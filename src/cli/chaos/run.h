#pragma once

// A whole chaos run: a cluster of its own, load on it, disturbances, and the
// reckoning. On the calling thread, which becomes the parent of the cluster's processes.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/chaos/asker.h"
#include "cli/chaos/fault.h"
#include "cli/chaos/injection.h"
#include "cli/chaos/question.h"
#include "cli/chaos/report.h"
#include "common/shutdown.h"

namespace fathom::cli {

struct ChaosOptions {
  std::string folder;  // for the cluster and its logs; ours alone
  absl::Duration duration = absl::Seconds(60);
  absl::Duration warm_up;  // load alone, before that
  int masters = 1;
  int workers = 4;
  std::string model;  // directory; empty: the one that ships with Fathom
  std::string device = "cpu";
  std::string simulated;  // a time model; empty: real workers
  int64_t kv_cache_bytes = 0;
  SimulatedShape shape;  // of what simulated workers are asked
  int32_t context = 0;   // tokens a sequence may have at simulated workers; 0: the model's
  std::vector<ClientKind> clients;
  int concurrency = 24;
  std::vector<FaultKind> faults;
  double faults_per_second = 1;
  absl::Duration deadline = absl::Seconds(60);  // of a request
  uint64_t seed = 0;
  int busy_threads = 0;      // that compute beside the cluster
  bool own_network = false;  // cuts drop packets, in a network namespace
  bool migration = true;
  InjectionKind injection = InjectionKind::kNone;
  std::string journal_path;  // empty: in the folder
};

struct ChaosProgress {
  absl::Duration since_start;
  int64_t done = 0;
  int64_t failed = 0;
  int64_t running = 0;
  int64_t faults = 0;
};

struct ChaosOutcome {
  ChaosResult result;
  bool interrupted = false;
};

absl::StatusOr<ChaosOutcome> RunChaos(const ChaosOptions& options, ShutdownSignal& shutdown,
                                      const std::function<void(const ChaosProgress&)>& on_progress);

}  // namespace fathom::cli
