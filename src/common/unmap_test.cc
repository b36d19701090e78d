#include "common/unmap.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

namespace fathom {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

char* Map(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  EXPECT_NE(data, MAP_FAILED);
  return static_cast<char*>(data);
}

bool IsMapped(char* page) {
  unsigned char resident = 0;
  const size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return mincore(page, page_bytes, &resident) == 0 || errno != ENOMEM;
}

// Nothing is mapped while a test looks: nothing comes to where it was.
class UnmapTest : public ::testing::TestWithParam<size_t> {};

TEST_P(UnmapTest, AllOfItGoesAndNothingElse) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t bytes = GetParam();
  const size_t pages = (bytes + page - 1) / page;
  // Two mappings may be one to the kernel: what lies around it must stay.
  char* const around = Map((pages + 2) * page);
  char* const data = around + page;
  around[0] = 'a';
  data[0] = data[bytes - 1] = 'x';
  data[pages * page] = 'z';

  UnmapInSlices(data, bytes);

  for (size_t i = 0; i < pages; ++i) {
    ASSERT_FALSE(IsMapped(data + i * page)) << "page " << i << " of " << pages;
  }
  EXPECT_EQ(around[0], 'a');
  EXPECT_EQ(data[pages * page], 'z');
  munmap(around, page);
  munmap(data + pages * page, page);
}

INSTANTIATE_TEST_SUITE_P(Sizes, UnmapTest,
                         ::testing::Values(1, 4096, 5000, 2 * kMiB + 1, 128 * kMiB - 4096,
                                           128 * kMiB, 128 * kMiB + 1, 384 * kMiB,
                                           700 * kMiB + 12345));

TEST(UnmapNothingTest, NothingHappens) { UnmapInSlices(nullptr, 0); }

}  // namespace
}  // namespace fathom
