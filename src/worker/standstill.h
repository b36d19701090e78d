#pragma once

// Notices that a thread which comes round many times a second did not, and tells why, as masters
// take a worker for dead that is silent for a second. Thread safety: none.

#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>

namespace fathom::worker {

class StandstillWatch {
 public:
  struct Standstill {
    int64_t ms = 0;
    // Of it, how long the thread could have run and got no processor; -1: the kernel does not tell.
    int64_t run_delay_ms = -1;
    // Pages that it touched then and that had to come from a disk.
    int64_t major_faults = 0;
  };
  // What the calling thread has waited for in its life.
  struct Waits {
    int64_t run_delay_ns = -1;  // for a processor; -1: the kernel does not tell
    int64_t major_faults = 0;

    static Waits Now() { return {RunDelayNs(), MajorFaults()}; }
  };

  // The thread has come round, having waited so much by now. What there is to tell.
  std::optional<Standstill> Look(int64_t now_ns, const Waits& waits) {
    const int64_t still_ns = looked_ns_ == 0 ? 0 : now_ns - looked_ns_;
    const int64_t delay_ns = waits.run_delay_ns < 0 || waits_.run_delay_ns < 0
                                 ? -1
                                 : waits.run_delay_ns - waits_.run_delay_ns;
    const int64_t faults = waits.major_faults - waits_.major_faults;
    looked_ns_ = now_ns;
    waits_ = waits;
    if (still_ns < kStillNs || (told_ns_ != 0 && now_ns - told_ns_ < kTellEveryNs)) {
      return std::nullopt;
    }
    told_ns_ = now_ns;
    return Standstill{still_ns / kNsPerMs, delay_ns < 0 ? -1 : delay_ns / kNsPerMs, faults};
  }

 private:
  static int64_t RunDelayNs() {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
        std::fopen("/proc/thread-self/schedstat", "re"), &std::fclose);
    long long ran_ns = 0;
    long long delay_ns = -1;
    if (file == nullptr || std::fscanf(file.get(), "%lld %lld", &ran_ns, &delay_ns) != 2) return -1;
    return delay_ns;
  }
  static int64_t MajorFaults() {
    rusage usage{};
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_majflt : 0;
  }

  static constexpr int64_t kNsPerMs = 1'000'000;
  static constexpr int64_t kStillNs = 700 * kNsPerMs;
  static constexpr int64_t kTellEveryNs = 10'000 * kNsPerMs;

  int64_t looked_ns_ = 0;  // 0: never
  Waits waits_;
  int64_t told_ns_ = 0;  // 0: never
};

}  // namespace fathom::worker
