#pragma once

// Notices that a thread which comes round many times a second did not, and tells why, as masters
// take a worker for dead that is silent for a second. Thread safety: none.

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
  };

  // The thread has come round; `run_delay_ns` is what RunDelayNs says now. What there is to tell.
  std::optional<Standstill> Look(int64_t now_ns, int64_t run_delay_ns) {
    const int64_t still_ns = looked_ns_ == 0 ? 0 : now_ns - looked_ns_;
    const int64_t delay_ns =
        run_delay_ns < 0 || run_delay_ns_ < 0 ? -1 : run_delay_ns - run_delay_ns_;
    looked_ns_ = now_ns;
    run_delay_ns_ = run_delay_ns;
    if (still_ns < kStillNs || (told_ns_ != 0 && now_ns - told_ns_ < kTellEveryNs)) {
      return std::nullopt;
    }
    told_ns_ = now_ns;
    return Standstill{still_ns / kNsPerMs, delay_ns < 0 ? -1 : delay_ns / kNsPerMs};
  }

  // How long the calling thread has waited for a processor in its life; -1: the kernel does not
  // tell.
  static int64_t RunDelayNs() {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
        std::fopen("/proc/thread-self/schedstat", "re"), &std::fclose);
    long long ran_ns = 0;
    long long delay_ns = -1;
    if (file == nullptr || std::fscanf(file.get(), "%lld %lld", &ran_ns, &delay_ns) != 2) return -1;
    return delay_ns;
  }

 private:
  static constexpr int64_t kNsPerMs = 1'000'000;
  static constexpr int64_t kStillNs = 700 * kNsPerMs;
  static constexpr int64_t kTellEveryNs = 10'000 * kNsPerMs;

  int64_t looked_ns_ = 0;  // 0: never
  int64_t run_delay_ns_ = -1;
  int64_t told_ns_ = 0;  // 0: never
};

}  // namespace fathom::worker
