#pragma once

// A thread with a stack of a size that we choose; std::thread takes what the system gives. Of a
// large stack only the pages that were touched cost memory. It has a FaultStack beside it. Joined
// by Join, once, before destruction.

#include <pthread.h>

#include <cstddef>
#include <functional>

namespace fathom {

class StackThread {
 public:
  // Starts at once; the process ends if the system has no thread left, as with std::thread.
  StackThread(size_t stack_bytes, std::function<void()> work);
  StackThread(StackThread&& other) noexcept;
  StackThread& operator=(StackThread&&) = delete;
  ~StackThread();

  void Join();

 private:
  pthread_t thread_{};
  bool joinable_ = true;
};

}  // namespace fathom
