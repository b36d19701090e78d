#pragma once

// What the fake NVML answers; a test finds it in the loaded library under its name.

#include <atomic>

namespace fathom::worker {

struct FakeNvml {
  std::atomic<int> init_result = 0;
  std::atomic<int> result = 0;      // of every question about the GPU
  std::atomic<int> ecc_result = 0;  // of this one
  std::atomic<int> xid = 0;         // told once
  std::atomic<int> num_init = 0;
  std::atomic<int> num_shutdown = 0;
  std::atomic<int> num_event_sets = 0;  // that were made and not freed
  char bus_id[64] = {};                 // that was asked for
};

}  // namespace fathom::worker
