#pragma once

// A few threads that share one loop at a time. The calling thread works too; idle threads spin for
// as long as the loops of a step are apart and then sleep, or at once while others want their core,
// so that they do not starve the network threads of the process.
//
// Thread safety: one thread calls ParallelFor; the function it gets must be safe to run on several.

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace fathom::kernels {

class ThreadPool {
 public:
  // `threads` in all, the caller included; 0 takes one a core that this process may run on.
  explicit ThreadPool(int32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t num_threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

  // Calls fn(index, thread) for every index in [0, count), in any order, thread being in
  // [0, num_threads). Returns when all are done.
  template <typename Fn>
  void ParallelFor(int64_t count, const Fn& fn) {
    Run(
        count, [](const void* f, int64_t i, int32_t t) { (*static_cast<const Fn*>(f))(i, t); },
        &fn);
  }

  // The same on the calling thread when the whole loop is expected to take less than what waking
  // the others costs.
  template <typename Fn>
  void ParallelFor(int64_t count, double expected_us, const Fn& fn) {
    if (expected_us < kWorthwhileUs) {
      for (int64_t i = 0; i < count; ++i) fn(i, 0);
    } else {
      ParallelFor(count, fn);
    }
  }

 private:
  using Body = void (*)(const void* fn, int64_t index, int32_t thread);
  static constexpr double kWorthwhileUs = 12;

  void Run(int64_t count, Body body, const void* fn);
  void WorkerMain(int32_t thread);
  void TakeIndices(int32_t thread);

  std::vector<std::thread> workers_;
  // The loop in progress: written before round_ announces it, read by workers after.
  Body body_ = nullptr;
  const void* fn_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;  // indices taken at a time
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> busy_{0};  // workers that have not finished the round
};

}  // namespace fathom::kernels
