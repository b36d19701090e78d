#pragma once

// Last words of a process that dies of a fault of its own (SIGSEGV, SIGBUS, SIGFPE, SIGILL,
// SIGABRT): so that others can tell it from one that was killed. The faulting thread stops, a
// thread of the watch's own speaks, and then the process dies of the signal as it would have, with
// its core. A fault that leaves nothing to speak with (the heap's lock held, say) ends it without,
// after a fifth of a second.
//
// One at a time: the signals' handlers have nothing but globals. A thread whose stack is full
// speaks where it has a FaultStack: the one that made the watch does, and made and destroys it.

#include <functional>
#include <thread>

#include "common/fault_stack.h"

namespace fathom {

class CrashWatch {
 public:
  // `last_words` hears the signal's number.
  explicit CrashWatch(std::function<void(int)> last_words);
  ~CrashWatch();
  CrashWatch(const CrashWatch&) = delete;
  CrashWatch& operator=(const CrashWatch&) = delete;

 private:
  const FaultStack stack_;
  std::thread thread_;
};

}  // namespace fathom
