#pragma once

// A few threads for work that would hold up an I/O thread: templates, tokenising, large JSON. The
// queue is bounded: over the limit work is refused, never delayed without end. Any thread may
// submit; the destructor stops. Their stacks are deep, so that templates run in place.

#include <cstddef>
#include <functional>
#include <vector>

#include "common/bounded_queue.h"
#include "common/stack_thread.h"

namespace fathom::master {

class CpuPool {
 public:
  CpuPool(int num_threads, size_t queue_max);
  ~CpuPool();
  CpuPool(const CpuPool&) = delete;
  CpuPool& operator=(const CpuPool&) = delete;

  // False when the queue is full or the pool has stopped.
  [[nodiscard]] bool Submit(std::function<void()> work);
  // Drops what has not begun and joins. Once; by the owner.
  void Stop();

 private:
  BoundedQueue<std::function<void()>> queue_;
  std::vector<StackThread> threads_;
};

}  // namespace fathom::master
