#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace fathom::kernels {
namespace {

TEST(ThreadPoolTest, EveryIndexRunsOnceOnAKnownThread) {
  for (const int32_t threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.num_threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1000, 4099}) {
      std::vector<std::atomic<int>> runs(count);
      std::atomic<bool> known = true;
      pool.ParallelFor(count, [&](int64_t index, int32_t thread) {
        runs[index].fetch_add(1);
        if (thread < 0 || thread >= threads) known = false;
      });
      EXPECT_TRUE(known);
      for (int64_t i = 0; i < count; ++i) ASSERT_EQ(runs[i].load(), 1) << i << " of " << count;
    }
  }
}

TEST(ThreadPoolTest, WritesOfALoopAreSeenByTheNext) {
  ThreadPool pool(4);
  std::vector<int64_t> values(64, 0);
  for (int round = 0; round < 5000; ++round) {
    pool.ParallelFor(64, [&](int64_t i, int32_t) { values[i] = values[i] + 1; });
  }
  for (const int64_t value : values) EXPECT_EQ(value, 5000);
}

TEST(ThreadPoolTest, CheapLoopsStayOnTheCaller) {
  ThreadPool pool(3);
  std::atomic<bool> elsewhere = false;
  pool.ParallelFor(100, 1.0, [&](int64_t, int32_t thread) {
    if (thread != 0) elsewhere = true;
  });
  EXPECT_FALSE(elsewhere);
}

}  // namespace
}  // namespace fathom::kernels
