#include "common/shutdown.h"

#include <pthread.h>
#include <signal.h>

#include <ctime>

namespace fathom {
namespace {

sigset_t HandledSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

ShutdownSignal::ShutdownSignal() {
  signal(SIGPIPE, SIG_IGN);
  const sigset_t set = HandledSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { Run(); });
}

ShutdownSignal::~ShutdownSignal() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  // Wakes the thread's wait; the flag tells it that no user asked. It is blocked, so nothing ends.
  pthread_kill(thread_.native_handle(), SIGTERM);  // NOLINT(bugprone-bad-signal-to-kill-thread)
  thread_.join();
}

void ShutdownSignal::Run() {
  const sigset_t set = HandledSignals();
  while (true) {
    int signal_number = 0;
    if (sigwait(&set, &signal_number) != 0) continue;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    Request();
  }
}

void ShutdownSignal::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return count_ > 0; });
}

bool ShutdownSignal::WaitFor(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), [this] { return count_ > 0; });
}

int ShutdownSignal::count() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

void ShutdownSignal::Request() {
  {
    const std::lock_guard lock(mutex_);
    ++count_;
  }
  changed_.notify_all();
}

}  // namespace fathom
