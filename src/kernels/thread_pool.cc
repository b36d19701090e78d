#include "kernels/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>

namespace fathom::kernels {
namespace {

constexpr int32_t kMaxThreads = 256;
constexpr int64_t kTurnsPerThread = 8;  // so that a slow thread holds up little

using Clock = std::chrono::steady_clock;

// Loops of one step follow each other within so long, and to wake a sleeping thread costs as much.
constexpr std::chrono::microseconds kSpin{50};
// A turn of the spinning loop that took so long was interrupted: others want this core.
constexpr std::chrono::microseconds kInterrupted{20};
// Then threads sleep at once for so long.
constexpr std::chrono::milliseconds kShy{20};

int32_t UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int32_t>(std::thread::hardware_concurrency());
}

// Returns once `value` is no longer `old`.
void AwaitChange(const std::atomic<uint32_t>& value, uint32_t old) {
  thread_local Clock::time_point shy_until;
  const Clock::time_point begin = Clock::now();
  for (Clock::time_point last = begin; begin >= shy_until && last - begin < kSpin;) {
    for (int i = 0; i < 8; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      __builtin_ia32_pause();
    }
    const Clock::time_point now = Clock::now();
    if (now - last > kInterrupted) shy_until = now + kShy;
    last = now;
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int32_t threads) {
  const int32_t wanted = std::clamp(threads > 0 ? threads : UsableCores(), 1, kMaxThreads);
  for (int32_t i = 1; i < wanted; ++i) {
    workers_.emplace_back([this, i] { WorkerMain(i); });
  }
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::TakeIndices(int32_t thread) {
  for (;;) {
    const int64_t first = next_.fetch_add(grain_, std::memory_order_relaxed);
    const int64_t end = std::min(first + grain_, count_);
    if (first >= end) return;
    for (int64_t index = first; index < end; ++index) body_(fn_, index, thread);
  }
}

void ThreadPool::WorkerMain(int32_t thread) {
  uint32_t seen = 0;
  for (;;) {
    AwaitChange(round_, seen);
    seen = round_.load(std::memory_order_acquire);
    if (stop_) return;
    TakeIndices(thread);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

void ThreadPool::Run(int64_t count, Body body, const void* fn) {
  if (workers_.empty() || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(fn, i, 0);
    return;
  }
  body_ = body;
  fn_ = fn;
  count_ = count;
  grain_ = std::max<int64_t>(count / (num_threads() * kTurnsPerThread), 1);
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  TakeIndices(0);
  for (uint32_t left = busy_.load(std::memory_order_acquire); left != 0;
       left = busy_.load(std::memory_order_acquire)) {
    AwaitChange(busy_, left);
  }
}

}  // namespace fathom::kernels
