#pragma once

// Sends a workload to a server: closed loop (so many at once, the next when one ends), or open loop
// (at times given beforehand, whatever the server does). In an open loop latencies count from the
// time a request was due: a server that makes the load wait does not hide it.

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/time/time.h"
#include "cli/load/tally.h"
#include "cli/load/transport.h"
#include "cli/load/workload.h"
#include "common/clock.h"
#include "common/shutdown.h"

namespace fathom::cli {

struct RunnerOptions {
  // The load ends with the first of the two; what runs then is waited for.
  int64_t requests = 0;                            // 0: as many as `duration` has room for
  absl::Duration duration = absl::ZeroDuration();  // 0: until all are sent
  int32_t concurrency = 0;                         // at once, in either loop; 0: no limit
  // When each request is due, since the start, in ascending order; null for a closed loop.
  std::function<absl::Duration()> next_arrival;
  int64_t warmup = 0;  // requests before the start that do not count
};

struct LoadProgress {
  int64_t done = 0;
  int64_t failed = 0;
  int64_t running = 0;
  int64_t output_tokens = 0;
  absl::Duration since_start;
};

struct LoadOutcome {
  Tally tally;
  absl::Duration took;  // from the start to the last end
  int64_t peak_concurrent = 0;
  bool interrupted = false;
};

// `on_progress` is called several times a second.
LoadOutcome RunLoad(const Workload& workload, const RunnerOptions& options, const Goodput& goodput,
                    LoadTransport& transport, const Clock& clock, ShutdownSignal& shutdown,
                    const std::function<void(const LoadProgress&)>& on_progress);

}  // namespace fathom::cli
