#include "worker/gpu/gpu_monitor.h"

#include <limits>
#include <optional>
#include <utility>

#include "common/logging.h"
#include "common/metrics.h"
#include "common/strings.h"

namespace fathom::worker {
namespace {

struct Figure {
  const char* name;
  const char* help;
  std::optional<double> GpuReading::*value;
};

constexpr Figure kFigures[] = {
    {"fathom_worker_gpu_utilization_ratio",
     "Part of the last moments in which a kernel ran, 0 to 1.", &GpuReading::utilization},
    {"fathom_worker_gpu_memory_activity_ratio",
     "Part of the last moments in which memory was read or written, 0 to 1.",
     &GpuReading::memory_activity},
    {"fathom_worker_gpu_memory_used_bytes", "Memory of the GPU in use, by whomever.",
     &GpuReading::memory_used_bytes},
    {"fathom_worker_gpu_memory_total_bytes", "Memory of the GPU.", &GpuReading::memory_total_bytes},
    {"fathom_worker_gpu_power_watts", "Power the GPU draws.", &GpuReading::power_watts},
    {"fathom_worker_gpu_temperature_celsius", "Temperature of the GPU.",
     &GpuReading::temperature_celsius},
    {"fathom_worker_gpu_sm_clock_hertz", "Clock of the multiprocessors.",
     &GpuReading::sm_clock_hertz},
    {"fathom_worker_gpu_ecc_uncorrected_errors",
     "Memory errors that were not corrected, since the driver was loaded.",
     &GpuReading::uncorrected_ecc_errors},
    {"fathom_worker_gpu_last_xid", "The last Xid error the driver reported since start; 0: none.",
     &GpuReading::last_xid},
};

}  // namespace

GpuMonitor::GpuMonitor(std::string pci_bus_id, absl::Duration period, std::string library)
    : pci_bus_id_(std::move(pci_bus_id)),
      library_(std::move(library)),
      thread_(
          period, [this] { Tick(); }, absl::ZeroDuration()) {}

void GpuMonitor::Tick() {
  if (!opened_) {
    opened_ = true;
    auto nvml = Nvml::Open(pci_bus_id_, library_);
    if (nvml.ok()) {
      nvml_ = *std::move(nvml);
    } else {
      LogWarn("gpu", "there will be no figures of the GPU",
              {{"error.message", std::string(Message(nvml.status()))}});
    }
  }
  if (nvml_ != nullptr) Show(nvml_->Read());
}

void GpuMonitor::Show(const GpuReading& reading) {
  for (const Figure& figure : kFigures) {
    const std::optional<double> value = reading.*figure.value;
    auto gauge = gauges_.find(figure.name);
    if (gauge == gauges_.end()) {
      if (!value) continue;
      gauge = gauges_.emplace(figure.name, &AddGauge(figure.name, figure.help)).first;
    }
    gauge->second->Set(value.value_or(std::numeric_limits<double>::quiet_NaN()));
  }
  const double xid = reading.last_xid.value_or(0);
  if (std::exchange(last_xid_, xid) != xid) {
    LogError("gpu", "the driver reports an Xid",
             {{"labels.xid", static_cast<int64_t>(xid)}, {"labels.gpu", pci_bus_id_}});
  }
  if (!std::exchange(lost_, reading.lost) && reading.lost) {
    LogError("gpu", "the GPU has fallen off the bus", {{"labels.gpu", pci_bus_id_}});
  }
}

}  // namespace fathom::worker
