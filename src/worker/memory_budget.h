#pragma once

// How much memory this process may still take, so that the KV cache can be planned at start and
// nothing runs out later.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace fathom::worker {

// Bytes free to this process: what the kernel calls available, or what is left under the memory
// limit of any cgroup (v1 or v2) it is in, whichever is less. File cache counts as free. `root` is
// where /proc and /sys/fs/cgroup lie; tests give a folder.
absl::StatusOr<int64_t> FreeMemoryBytes(const std::string& root = "");

// The part of `free_bytes` a KV cache takes by itself: the rest is for activations, other processes
// and the unforeseen.
int64_t KvBudgetBytes(int64_t free_bytes);
// What must be free for a KV cache to take that many by itself.
int64_t FreeBytesForKv(int64_t kv_bytes);

}  // namespace fathom::worker
