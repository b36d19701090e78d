#include "common/crash_watch.h"

#include <semaphore.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <ctime>
#include <utility>

#include "common/check.h"

namespace fathom {
namespace {

constexpr std::array kFaults{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
constexpr int kWaitMs = 200;

std::atomic<bool> g_watched{false};
std::atomic<int> g_fault{0};
std::atomic<bool> g_said{false};
sem_t g_wake;

// Nothing here but what POSIX lets a handler do.
void OnFault(int number) {
  int none = 0;
  if (g_fault.compare_exchange_strong(none, number)) sem_post(&g_wake);
  const timespec millisecond{0, 1'000'000};
  for (int i = 0; i < kWaitMs && !g_said; ++i) nanosleep(&millisecond, nullptr);
  // Blocked while this runs; on return it comes, or the faulting instruction runs again.
  signal(number, SIG_DFL);
  raise(number);
}

}  // namespace

CrashWatch::CrashWatch(std::function<void(int)> last_words) {
  FATHOM_CHECK(!g_watched.exchange(true), "two crash watches");
  g_fault = 0;
  g_said = false;
  sem_init(&g_wake, 0, 0);
  thread_ = std::thread([last_words = std::move(last_words)] {
    while (sem_wait(&g_wake) != 0) {
    }
    const int fault = g_fault;
    if (fault == 0) return;  // the watch goes
    last_words(fault);
    g_said = true;
  });
  struct sigaction action {};
  action.sa_handler = OnFault;
  action.sa_flags = SA_ONSTACK;
  sigfillset(&action.sa_mask);
  for (const int fault : kFaults) sigaction(fault, &action, nullptr);
}

CrashWatch::~CrashWatch() {
  for (const int fault : kFaults) signal(fault, SIG_DFL);
  sem_post(&g_wake);
  thread_.join();
  sem_destroy(&g_wake);
  g_watched = false;
}

}  // namespace fathom
