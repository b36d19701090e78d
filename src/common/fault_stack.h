#pragma once

// A second stack for the thread that makes it, as long as it lives: where a thread's own is full, a
// signal's handler has nothing else to run on, and the process would die without CrashWatch's last
// words. Destroyed on the thread that made it. What the thread had before comes back then.

#include <csignal>
#include <cstddef>
#include <memory>

namespace fathom {

class FaultStack {
 public:
  FaultStack();
  ~FaultStack();
  FaultStack(const FaultStack&) = delete;
  FaultStack& operator=(const FaultStack&) = delete;

 private:
  const std::unique_ptr<std::byte[]> memory_;
  stack_t before_{};
};

}  // namespace fathom
