// A library with the entry points of NVML that the worker uses, as NVIDIA publishes them.

#include "worker/gpu/testing/fake_nvml.h"

#include <cstring>

using fathom::worker::FakeNvml;

namespace {

constexpr int kTimeout = 10;
constexpr int kNotFound = 6;
int the_gpu;
int the_events;

struct Rates {
  unsigned int gpu, memory;
};
struct Memory {
  unsigned long long total, free, used;
};
struct Event {
  void* device;
  unsigned long long type, data;
  unsigned int gpu_instance, compute_instance;
};

}  // namespace

extern "C" {

FakeNvml fake_nvml;

int nvmlInit_v2() {
  ++fake_nvml.num_init;
  return fake_nvml.init_result;
}
int nvmlShutdown() {
  ++fake_nvml.num_shutdown;
  return 0;
}
const char* nvmlErrorString(int result) { return result == 9 ? "Driver Not Loaded" : "Some Error"; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, void** device) {
  std::strncpy(fake_nvml.bus_id, bus_id, sizeof(fake_nvml.bus_id) - 1);
  *device = &the_gpu;
  return std::strcmp(bus_id, "0000:65:00.0") == 0 ? 0 : kNotFound;
}
int nvmlDeviceGetUtilizationRates(void* device, Rates* out) {
  *out = {37, 12};
  return device == &the_gpu ? fake_nvml.result.load() : kNotFound;
}
int nvmlDeviceGetMemoryInfo(void*, Memory* out) {
  *out = {80ULL << 30, 50ULL << 30, 30ULL << 30};
  return fake_nvml.result;
}
int nvmlDeviceGetPowerUsage(void*, unsigned int* out) {
  *out = 412'500;
  return fake_nvml.result;
}
int nvmlDeviceGetTemperature(void*, int sensor, unsigned int* out) {
  *out = sensor == 0 ? 61 : 0;
  return fake_nvml.result;
}
int nvmlDeviceGetClockInfo(void*, int clock, unsigned int* out) {
  *out = clock == 1 ? 1980 : 0;
  return fake_nvml.result;
}
int nvmlDeviceGetTotalEccErrors(void*, int type, int counter, unsigned long long* out) {
  *out = type == 1 && counter == 0 ? 2 : 99;
  return fake_nvml.ecc_result != 0 ? fake_nvml.ecc_result.load() : fake_nvml.result.load();
}
int nvmlEventSetCreate(void** set) {
  ++fake_nvml.num_event_sets;
  *set = &the_events;
  return 0;
}
int nvmlEventSetFree(void* set) {
  fake_nvml.num_event_sets -= set == &the_events ? 1 : 0;
  return 0;
}
int nvmlDeviceRegisterEvents(void* device, unsigned long long types, void* set) {
  return device == &the_gpu && set == &the_events && types == 8 ? 0 : kNotFound;
}
int nvmlEventSetWait_v2(void*, Event* out, unsigned int) {
  const int xid = fake_nvml.xid.exchange(0);
  *out = {&the_gpu, 8, static_cast<unsigned long long>(xid), ~0U, ~0U};
  return xid == 0 ? kTimeout : 0;
}
}
