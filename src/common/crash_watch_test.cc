#include "common/crash_watch.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <ctime>
#include <mutex>

#include "common/stack_thread.h"

namespace fathom {
namespace {

// What a child that faults says, and the signal it dies of.
struct Death {
  std::string words;
  int signal = 0;
};

template <typename Fault>
Death DeathOf(const Fault& fault) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    std::mutex busy;
    const CrashWatch watch([&](int number) {
      const std::lock_guard lock(busy);
      const char word = number == SIGSEGV ? 's' : number == SIGABRT ? 'a' : '?';
      if (write(ends[1], &word, 1) != 1) _exit(1);
    });
    fault(busy);
    _exit(0);
  }
  close(ends[1]);
  Death death;
  char word = 0;
  while (read(ends[0], &word, 1) == 1) death.words += word;
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  death.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return death;
}

TEST(CrashWatchTest, AFaultSpeaksOnceAndDiesOfItsSignal) {
  const Death abort = DeathOf([](std::mutex&) { std::abort(); });
  EXPECT_EQ(abort.words, "a");
  EXPECT_EQ(abort.signal, SIGABRT);
  const Death fault = DeathOf([](std::mutex&) { raise(SIGSEGV); });
  EXPECT_EQ(fault.words, "s");
  EXPECT_EQ(fault.signal, SIGSEGV);
}

// Deeper than any stack is.
int Descend(int left) {
  volatile char room[4096];
  room[left % sizeof(room)] = 1;
  return left == 0 ? 0 : Descend(left - 1) + room[left % sizeof(room)];
}

TEST(CrashWatchTest, AFullStackSpeaksToo) {
  constexpr int kDeep = 1 << 20;
  const Death here = DeathOf([](std::mutex&) { _exit(Descend(kDeep)); });
  EXPECT_EQ(here.words, "s");
  EXPECT_EQ(here.signal, SIGSEGV);
  const Death there = DeathOf([](std::mutex&) {
    StackThread thread(size_t{1} << 20, [] { _exit(Descend(kDeep)); });
    thread.Join();
  });
  EXPECT_EQ(there.words, "s");
  EXPECT_EQ(there.signal, SIGSEGV);
}

TEST(CrashWatchTest, WhoCannotSpeakDiesAllTheSame) {
  const time_t start = time(nullptr);
  const Death death = DeathOf([](std::mutex& busy) {
    const std::lock_guard lock(busy);
    std::abort();
  });
  EXPECT_EQ(death.words, "");
  EXPECT_EQ(death.signal, SIGABRT);
  EXPECT_LT(time(nullptr) - start, 10);
}

TEST(CrashWatchTest, AnOrdinaryEndSaysNothing) {
  const Death none = DeathOf([](std::mutex&) {});
  EXPECT_EQ(none.words, "");
  EXPECT_EQ(none.signal, 0);
  const Death killed = DeathOf([](std::mutex&) { raise(SIGKILL); });
  EXPECT_EQ(killed.words, "");
  EXPECT_EQ(killed.signal, SIGKILL);
}

}  // namespace
}  // namespace fathom
