#pragma once

// NVIDIA's management library, loaded when it is there: what the driver knows of one GPU. Nothing
// is linked, and the few entry points are declared here, after NVIDIA's published interface.
// Thread safety: none.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace fathom::worker {

inline constexpr char kNvmlLibrary[] = "libnvidia-ml.so.1";

// What cannot be read (a virtual machine's GPU tells less, a part of a GPU too) is empty.
struct GpuReading {
  std::optional<double> utilization;      // part of the time in which a kernel ran, 0 to 1
  std::optional<double> memory_activity;  // part of the time in which memory was in use, 0 to 1
  std::optional<double> memory_used_bytes;
  std::optional<double> memory_total_bytes;
  std::optional<double> power_watts;
  std::optional<double> temperature_celsius;
  std::optional<double> sm_clock_hertz;
  std::optional<double> uncorrected_ecc_errors;  // since the driver was loaded
  std::optional<double> last_xid;                // since Open; 0: none
  bool lost = false;                             // it has fallen off the bus
};

class Nvml {
 public:
  // The GPU with that PCI bus id (CUDA's indices are not NVML's). UNAVAILABLE when the library or
  // the driver is missing, NOT_FOUND when it does not know the GPU.
  static absl::StatusOr<std::unique_ptr<Nvml>> Open(const std::string& pci_bus_id,
                                                    const std::string& library = kNvmlLibrary);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // Waits for nothing but the driver.
  GpuReading Read();

 private:
  struct Api;
  Nvml(void* library, std::unique_ptr<Api> api);
  absl::Status FindGpu(const std::string& pci_bus_id);
  void WatchXids();
  void ReadXids();

  void* const library_;  // dlopen's
  const std::unique_ptr<Api> api_;
  bool initialized_ = false;
  void* device_ = nullptr;
  void* events_ = nullptr;  // null: this GPU tells no events
  uint64_t last_xid_ = 0;
};

}  // namespace fathom::worker
