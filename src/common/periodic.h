#pragma once

// Calls a function again and again on a thread of its own, a period after it last returned, until
// the object goes: the destructor waits for a call that runs. The first call comes after `first`.

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/time/time.h"

namespace fathom {

class Periodic {
 public:
  Periodic(absl::Duration period, std::function<void()> call)
      : Periodic(period, std::move(call), period) {}
  Periodic(absl::Duration period, std::function<void()> call, absl::Duration first)
      : thread_([this, period, first, call = std::move(call)] {
          std::unique_lock lock(mutex_);
          absl::Duration pause = first;
          while (
              !ending_.wait_for(lock, absl::ToChronoNanoseconds(pause), [this] { return end_; })) {
            lock.unlock();
            call();
            lock.lock();
            pause = period;
          }
        }) {}
  ~Periodic() {
    {
      const std::lock_guard lock(mutex_);
      end_ = true;
    }
    ending_.notify_one();
    thread_.join();
  }
  Periodic(const Periodic&) = delete;
  Periodic& operator=(const Periodic&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable ending_;
  bool end_ = false;  // protected by mutex_
  std::thread thread_;
};

}  // namespace fathom
