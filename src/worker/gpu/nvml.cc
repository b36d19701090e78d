#include "worker/gpu/nvml.h"

#include <dlfcn.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::worker {
namespace {

// Of nvml.h.
constexpr int kSuccess = 0;
constexpr int kGpuIsLost = 15;
constexpr int kSensorGpu = 0;
constexpr int kClockSm = 1;
constexpr int kErrorUncorrected = 1;
constexpr int kCountVolatile = 0;
constexpr uint64_t kEventXid = 8;

struct Utilization {
  unsigned int gpu;  // percent
  unsigned int memory;
};
struct Memory {
  unsigned long long total;  // NOLINT(google-runtime-int): NVML's own types, here and below
  unsigned long long free;   // NOLINT(google-runtime-int)
  unsigned long long used;   // NOLINT(google-runtime-int)
};
struct EventData {
  void* device;
  unsigned long long type;  // NOLINT(google-runtime-int)
  unsigned long long data;  // NOLINT(google-runtime-int): the Xid
  unsigned int gpu_instance;
  unsigned int compute_instance;
};

template <typename Function>
void Find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace

// Null where the library has no such function.
struct Nvml::Api {
  explicit Api(void* library) {
    Find(library, "nvmlInit_v2", init);
    Find(library, "nvmlShutdown", shutdown);
    Find(library, "nvmlErrorString", error_string);
    Find(library, "nvmlDeviceGetHandleByPciBusId_v2", handle_by_bus_id);
    Find(library, "nvmlDeviceGetUtilizationRates", utilization);
    Find(library, "nvmlDeviceGetMemoryInfo", memory);
    Find(library, "nvmlDeviceGetPowerUsage", power);
    Find(library, "nvmlDeviceGetTemperature", temperature);
    Find(library, "nvmlDeviceGetClockInfo", clock);
    Find(library, "nvmlDeviceGetTotalEccErrors", ecc_errors);
    Find(library, "nvmlEventSetCreate", event_set_create);
    Find(library, "nvmlEventSetFree", event_set_free);
    Find(library, "nvmlDeviceRegisterEvents", register_events);
    Find(library, "nvmlEventSetWait_v2", event_set_wait);
  }

  bool complete() const {
    return init != nullptr && shutdown != nullptr && error_string != nullptr &&
           handle_by_bus_id != nullptr;
  }
  bool has_events() const {
    return event_set_create != nullptr && event_set_free != nullptr && register_events != nullptr &&
           event_set_wait != nullptr;
  }
  absl::Status ToStatus(int result, absl::StatusCode code, absl::string_view what) const {
    if (result == kSuccess) return absl::OkStatus();
    return {code, absl::StrCat("NVML: ", what, ": ", error_string(result))};
  }

  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*handle_by_bus_id)(const char*, void**) = nullptr;
  int (*utilization)(void*, Utilization*) = nullptr;
  int (*memory)(void*, Memory*) = nullptr;
  int (*power)(void*, unsigned int*) = nullptr;  // milliwatts
  int (*temperature)(void*, int, unsigned int*) = nullptr;
  int (*clock)(void*, int, unsigned int*) = nullptr;                  // MHz
  int (*ecc_errors)(void*, int, int, unsigned long long*) = nullptr;  // NOLINT(google-runtime-int)
  int (*event_set_create)(void**) = nullptr;
  int (*event_set_free)(void*) = nullptr;
  int (*register_events)(void*, unsigned long long, void*) = nullptr;  // NOLINT(google-runtime-int)
  int (*event_set_wait)(void*, EventData*, unsigned int) = nullptr;
};

Nvml::Nvml(void* library, std::unique_ptr<Api> api) : library_(library), api_(std::move(api)) {}

absl::StatusOr<std::unique_ptr<Nvml>> Nvml::Open(const std::string& pci_bus_id,
                                                 const std::string& library) {
  void* loaded = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (loaded == nullptr) return absl::UnavailableError(absl::StrCat("NVML: ", dlerror()));
  std::unique_ptr<Nvml> nvml(new Nvml(loaded, std::make_unique<Api>(loaded)));
  if (!nvml->api_->complete()) {
    return absl::UnavailableError(absl::StrCat("NVML: ", library, " lacks functions"));
  }
  RETURN_IF_ERROR(nvml->FindGpu(pci_bus_id));
  nvml->WatchXids();
  return nvml;
}

Nvml::~Nvml() {
  if (events_ != nullptr) api_->event_set_free(events_);
  if (initialized_) api_->shutdown();
  dlclose(library_);
}

absl::Status Nvml::FindGpu(const std::string& pci_bus_id) {
  RETURN_IF_ERROR(
      api_->ToStatus(api_->init(), absl::StatusCode::kUnavailable, "the driver does not answer"));
  initialized_ = true;
  return api_->ToStatus(api_->handle_by_bus_id(pci_bus_id.c_str(), &device_),
                        absl::StatusCode::kNotFound, absl::StrCat("GPU ", pci_bus_id));
}

void Nvml::WatchXids() {
  if (!api_->has_events() || api_->event_set_create(&events_) != kSuccess) {
    events_ = nullptr;
    return;
  }
  if (api_->register_events(device_, kEventXid, events_) == kSuccess) return;
  api_->event_set_free(events_);
  events_ = nullptr;
}

void Nvml::ReadXids() {
  EventData event{};
  // Each is told once; no more are taken than a storm of them may bring in a while.
  for (int i = 0; i < 100 && api_->event_set_wait(events_, &event, 0) == kSuccess; ++i) {
    if (event.type == kEventXid) last_xid_ = event.data;
  }
}

GpuReading Nvml::Read() {
  GpuReading reading;
  const auto good = [&reading](int result) {
    reading.lost |= result == kGpuIsLost;
    return result == kSuccess;
  };
  Utilization utilization{};
  if (api_->utilization != nullptr && good(api_->utilization(device_, &utilization))) {
    reading.utilization = utilization.gpu / 100.0;
    reading.memory_activity = utilization.memory / 100.0;
  }
  Memory memory{};
  if (api_->memory != nullptr && good(api_->memory(device_, &memory))) {
    reading.memory_used_bytes = static_cast<double>(memory.used);
    reading.memory_total_bytes = static_cast<double>(memory.total);
  }
  unsigned int value = 0;
  if (api_->power != nullptr && good(api_->power(device_, &value))) {
    reading.power_watts = value / 1000.0;
  }
  if (api_->temperature != nullptr && good(api_->temperature(device_, kSensorGpu, &value))) {
    reading.temperature_celsius = value;
  }
  if (api_->clock != nullptr && good(api_->clock(device_, kClockSm, &value))) {
    reading.sm_clock_hertz = value * 1e6;
  }
  unsigned long long errors = 0;  // NOLINT(google-runtime-int)
  if (api_->ecc_errors != nullptr &&
      good(api_->ecc_errors(device_, kErrorUncorrected, kCountVolatile, &errors))) {
    reading.uncorrected_ecc_errors = static_cast<double>(errors);
  }
  if (events_ != nullptr) {
    ReadXids();
    reading.last_xid = static_cast<double>(last_xid_);
  }
  return reading;
}

}  // namespace fathom::worker
