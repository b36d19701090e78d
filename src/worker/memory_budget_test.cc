#include "worker/memory_budget.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace fathom::worker {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A machine as its files describe it.
class MemoryBudgetTest : public ::testing::Test {
 protected:
  MemoryBudgetTest()
      : root_(testing::TempDir() + "/memory_budget_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
    Put("/proc/meminfo", "MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable:  2097152 kB\n");
  }
  ~MemoryBudgetTest() override { std::filesystem::remove_all(root_); }

  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path file(root_ + path);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  const std::string root_;
};

TEST_F(MemoryBudgetTest, WithoutCgroupsTheKernelsFigureHolds) {
  EXPECT_EQ(*FreeMemoryBytes(root_), 2048 * kMiB);
}

TEST_F(MemoryBudgetTest, ALimitOfTheCgroupCountsAndFileCacheIsFree) {
  Put("/proc/self/cgroup", "0::/pod/box\n");
  Put("/sys/fs/cgroup/pod/box/memory.max", "1073741824\n");
  Put("/sys/fs/cgroup/pod/box/memory.current", "536870912\n");
  Put("/sys/fs/cgroup/pod/box/memory.stat", "anon 5\nactive_file 7\ninactive_file 104857600\n");
  EXPECT_EQ(*FreeMemoryBytes(root_), (512 + 100) * kMiB);
}

TEST_F(MemoryBudgetTest, ALimitFurtherUpCountsToo) {
  Put("/proc/self/cgroup", "0::/pod/box\n");
  Put("/sys/fs/cgroup/pod/box/memory.max", "max\n");
  Put("/sys/fs/cgroup/pod/box/memory.current", "1000\n");
  Put("/sys/fs/cgroup/pod/memory.max", "2097152\n");
  Put("/sys/fs/cgroup/pod/memory.current", "1048576\n");
  EXPECT_EQ(*FreeMemoryBytes(root_), kMiB);
}

TEST_F(MemoryBudgetTest, TheFirstVersionOfCgroupsIsRead) {
  Put("/proc/self/cgroup", "8:pids:/\n5:memory:/docker/x\n");
  Put("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "3145728\n");
  Put("/sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "1048576\n");
  EXPECT_EQ(*FreeMemoryBytes(root_), 2 * kMiB);
}

TEST_F(MemoryBudgetTest, AFullCgroupLeavesNothing) {
  Put("/proc/self/cgroup", "0::/\n");
  Put("/sys/fs/cgroup/memory.max", "1000\n");
  Put("/sys/fs/cgroup/memory.current", "2000\n");
  EXPECT_EQ(*FreeMemoryBytes(root_), 0);
  EXPECT_EQ(KvBudgetBytes(0), 0);
}

TEST_F(MemoryBudgetTest, AMachineThatTellsNothingIsAnError) {
  Put("/proc/meminfo", "MemTotal: 5 kB\n");
  EXPECT_FALSE(FreeMemoryBytes(root_).ok());
}

TEST(MemoryBudget, ThisMachineHasMemory) { EXPECT_GT(*FreeMemoryBytes(), 0); }

}  // namespace
}  // namespace fathom::worker
