#include "worker/standstill.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

namespace fathom::worker {
namespace {

constexpr int64_t kMs = 1'000'000;

TEST(StandstillTest, TellsHowLongAndHowMuchOfItWasTheSchedulers) {
  StandstillWatch watch;
  EXPECT_FALSE(
      watch.Look(5000 * kMs, {40 * kMs, 3}));  // the first look has nothing to compare with
  EXPECT_FALSE(watch.Look(5699 * kMs, {600 * kMs, 4}));
  const auto still = watch.Look(7199 * kMs, {1900 * kMs, 11});
  ASSERT_TRUE(still.has_value());
  EXPECT_EQ(still->ms, 1500);
  EXPECT_EQ(still->run_delay_ms, 1300);
  EXPECT_EQ(still->major_faults, 7);
}

TEST(StandstillTest, TellsOnceInTenSeconds) {
  StandstillWatch watch;
  int told = 0;
  for (int64_t now_ms = 1000; now_ms <= 25'000; now_ms += 1000) {
    if (watch.Look(now_ms * kMs, {})) ++told;
  }
  EXPECT_EQ(told, 3);  // at 2, 12 and 22 s
}

TEST(StandstillTest, AKernelThatDoesNotTellIsNoScheduler) {
  StandstillWatch watch;
  EXPECT_FALSE(watch.Look(1000 * kMs, {-1}));
  EXPECT_EQ(watch.Look(2000 * kMs, {-1})->run_delay_ms, -1);
  EXPECT_FALSE(watch.Look(2001 * kMs, {7}));
  EXPECT_EQ(watch.Look(40'000 * kMs, {-1})->run_delay_ms, -1);
}

TEST(StandstillTest, AThreadThatHadToWaitForAProcessorKnowsIt) {
  if (!std::ifstream("/proc/thread-self/schedstat")) GTEST_SKIP() << "the kernel does not tell";
  const int64_t before_ns = StandstillWatch::Waits::Now().run_delay_ns;
  ASSERT_GE(before_ns, 0);
  // More threads than processors: some must wait.
  std::atomic<bool> waited{false};
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency() + 1; ++i) {
    threads.emplace_back([&waited] {
      while (!waited) {
        if (StandstillWatch::Waits::Now().run_delay_ns > 5 * kMs) waited = true;
      }
    });
  }
  threads.clear();
  EXPECT_TRUE(waited);
  EXPECT_GE(StandstillWatch::Waits::Now().run_delay_ns, before_ns);
}

}  // namespace
}  // namespace fathom::worker
