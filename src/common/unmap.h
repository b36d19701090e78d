#pragma once

// Gives mappings back without stopping the process. The kernel walks all pages of an munmap under
// one hold of the address space's lock (a tenth of a second a GiB of small pages), and whoever maps
// memory or grows a heap meanwhile waits for it.

#include <cstddef>

namespace fathom {

// Of a mapping of any size, whole: others get the lock after each slice of it.
void UnmapInSlices(void* data, size_t bytes);

}  // namespace fathom
