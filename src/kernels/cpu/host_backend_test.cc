#include "kernels/cpu/host_backend.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <utility>

#include "kernels/cpu/ref_backend.h"

namespace fathom::kernels::cpu {
namespace {

bool IsMapped(const char* at) {
  const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  auto* const page = const_cast<char*>(at) - reinterpret_cast<uintptr_t>(at) % page_bytes;
  unsigned char resident = 0;
  return mincore(page, page_bytes, &resident) == 0 || errno != ENOMEM;
}

TEST(HostBackendTest, ABufferIsFreedWholeAndItsNeighboursStay) {
  const std::unique_ptr<Backend> backend = CreateRefBackend();
  for (const size_t bytes : {size_t{1}, size_t{4096}, (size_t{300} << 20) + 5}) {
    auto before = backend->Allocate(8192);
    auto buffer = backend->Allocate(bytes);
    auto after = backend->Allocate(8192);
    ASSERT_TRUE(before.ok() && buffer.ok() && after.ok());
    char* const data = buffer->as<char>();
    data[0] = data[bytes - 1] = before->as<char>()[8191] = after->as<char>()[0] = 'x';
    { const DeviceBuffer freed = *std::move(buffer); }
    EXPECT_FALSE(IsMapped(data));
    EXPECT_FALSE(IsMapped(data + bytes / 2));
    EXPECT_FALSE(IsMapped(data + bytes - 1));
    EXPECT_EQ(before->as<char>()[8191], 'x');
    EXPECT_EQ(after->as<char>()[0], 'x');
  }
}

}  // namespace
}  // namespace fathom::kernels::cpu
