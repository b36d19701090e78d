#include "common/unmap.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace fathom {
namespace {

// About 10 ms; whole huge pages, which would be split elsewhere.
constexpr uintptr_t kSliceBytes = uintptr_t{128} << 20;

}  // namespace

void UnmapInSlices(void* data, size_t bytes) {
  auto* at = static_cast<char*>(data);
  while (bytes > 0) {
    const size_t to_border = kSliceBytes - reinterpret_cast<uintptr_t>(at) % kSliceBytes;
    const size_t slice = std::min(bytes, to_border);
    munmap(at, slice);
    at += slice;
    bytes -= slice;
  }
}

}  // namespace fathom
