#pragma once

// SIGINT and SIGTERM as an event. Construct it first in main, before any thread: it blocks both
// signals for the whole process and takes them on a thread of its own, so that no code ever runs in
// a signal handler. SIGPIPE is ignored.

#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/time/time.h"

namespace fathom {

class ShutdownSignal {
 public:
  ShutdownSignal();
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  // Returns when shutdown was asked for.
  void Wait();
  // True when shutdown was asked for, false after the timeout.
  bool WaitFor(absl::Duration timeout);
  // How often shutdown was asked for: a second Ctrl-C means "at once".
  int count() const;
  // As if a signal had come.
  void Request();

 private:
  void Run();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int count_ = 0;          // protected by mutex_
  bool stopping_ = false;  // protected by mutex_
  std::thread thread_;
};

}  // namespace fathom
