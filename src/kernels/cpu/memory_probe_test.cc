#include "kernels/cpu/memory_probe.h"

#include <gtest/gtest.h>

namespace fathom::kernels::cpu {
namespace {

TEST(MemoryProbeTest, MeasuresWhatAMachineCanHave) {
  if (!DetectIsa()) GTEST_SKIP() << "needs AVX2";
  const auto probe = MemoryProbe::Create(2);
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_EQ((*probe)->num_threads(), 2);
  EXPECT_GE((*probe)->bytes(), int64_t{512} << 20);
  for (const double rate : {(*probe)->AllThreads(), (*probe)->OneThread()}) {
    EXPECT_GT(rate, 5e7);
    EXPECT_LT(rate, 1e13);
  }
}

}  // namespace
}  // namespace fathom::kernels::cpu
