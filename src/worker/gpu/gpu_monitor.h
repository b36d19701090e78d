#pragma once

// The worker's GPU for Prometheus: reads what the driver knows every few seconds, on a thread of
// its own, into gauges named fathom_worker_gpu_*. A figure that this GPU does not tell has no
// gauge; one that it tells no longer is NaN. Without NVML there are none, and one log line says so.

#include <map>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "common/periodic.h"
#include "prometheus/gauge.h"
#include "worker/gpu/nvml.h"

namespace fathom::worker {

class GpuMonitor {
 public:
  explicit GpuMonitor(std::string pci_bus_id, absl::Duration period = absl::Seconds(2),
                      std::string library = kNvmlLibrary);

 private:
  void Tick();
  void Show(const GpuReading& reading);

  const std::string pci_bus_id_;
  const std::string library_;
  // All below belong to the thread.
  bool opened_ = false;
  std::unique_ptr<Nvml> nvml_;
  std::map<std::string, prometheus::Gauge*> gauges_;
  double last_xid_ = 0;
  bool lost_ = false;
  Periodic thread_;
};

}  // namespace fathom::worker
