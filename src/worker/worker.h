#pragma once

// The worker process as one object: it owns the models with their engines, the link and the health
// port, and knows in which order they start and stop. Health answers from the first moment; ready
// means that the model it was started with, if any, is loaded and at least one master is linked.
//
// Thread safety: Start, Drain, Stop and the destructor on one thread; the rest from any thread.

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/health_server.h"
#include "common/random.h"
#include "fathom/config.pb.h"
#include "worker/device.h"
#include "worker/gpu/gpu_monitor.h"
#include "worker/link_client.h"
#include "worker/model_host.h"
#include "worker/model_loading.h"
#include "worker/worker_metrics.h"

namespace fathom::worker {

class Worker {
 public:
  // `config` has its defaults filled in (FillDefaults). NOT_FOUND when the model is not there,
  // INVALID_ARGUMENT or UNIMPLEMENTED when this build cannot run it, RESOURCE_EXHAUSTED when the
  // memory does not suffice, UNAVAILABLE when the health port is taken, PERMISSION_DENIED for a
  // plaintext link beyond loopback.
  static absl::StatusOr<std::unique_ptr<Worker>> Start(const config::Worker& config,
                                                       const Clock* clock, Random* random,
                                                       const Device& device = {});
  ~Worker();  // stops
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // OK once the model of the start is loaded and a master is linked; else what is missing.
  absl::Status Ready() const;
  // An engine's fatal error, or a hang: the process should exit.
  absl::Status Health() const;
  // The health port's; 0 when it is off.
  uint16_t metrics_port() const { return health_ == nullptr ? 0 : health_->port(); }

  // A master has ordered the worker to leave, as SIGTERM would.
  bool leave_asked() const { return leave_asked_; }
  // The process is about to die of a fault: its masters should know that it was no killing.
  void SayCrashed();
  // Takes no new work and waits for what runs: until it has finished, `limit` has passed, or
  // `interrupted`, which waits for the time given, says to hurry.
  void Drain(absl::Duration limit, const std::function<bool(absl::Duration)>& interrupted);

  // Ends at once: what runs is cancelled, and its masters are told. Waits for the device's step;
  // Health() meanwhile tells when that waiting is in vain. Idempotent.
  void Stop();

 private:
  Worker(const Clock* clock, Random* random) : clock_(clock), random_(random) {}
  absl::Status StartHealth(const config::Worker& config);
  absl::Status StartModels(const config::Worker& config, const Device& device);
  absl::Status StartLink();
  void RefreshMetrics();

  const Clock* const clock_;
  Random* const random_;
  WorkerMetrics metrics_;
  std::unique_ptr<LinkClient> link_;
  std::unique_ptr<ModelLoading> loading_;
  std::unique_ptr<ModelHost> host_;   // loads with loading_, puts out into link_
  std::atomic<bool> started_{false};  // all of them are there
  std::atomic<bool> draining_{false};
  std::atomic<bool> leave_asked_{false};
  std::unique_ptr<GpuMonitor> gpu_;       // none without a GPU
  std::unique_ptr<HealthServer> health_;  // asks all of the above
};

}  // namespace fathom::worker
