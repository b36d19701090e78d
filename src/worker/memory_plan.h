#pragma once

// Where the memory of a device goes: weights, the work space of a step, the KV cache, what stays
// free. Whether a model fits is known from the shapes of its weights, before they are read. Pure
// arithmetic and words.

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "worker/model/model.h"

namespace fathom::worker {

// A cache too small for a sequence of that many tokens is no cache.
inline constexpr int32_t kSmallestContext = 512;
inline constexpr int32_t kMinLogitRows = 256;

// Of a GPU's memory: what the recorded steps may take, and what stays free for lists of penalties
// and the driver.
inline constexpr int64_t kGraphBytes = int64_t{512} << 20;
inline constexpr int64_t kSpareBytes = int64_t{1536} << 20;

// Rows of logits that a step may ask for.
int32_t LogitRows(int32_t step_tokens, int32_t max_sequences);

// What the configuration says about memory.
struct MemoryWishes {
  std::string device;          // as configured: "cpu", "cuda:0"
  int64_t kv_cache_bytes = 0;  // 0: a part of what is free
  int32_t max_context = 0;     // 0: what the model and the cache allow
  int32_t max_sequences = 0;
  int32_t step_tokens = 0;
};

// RESOURCE_EXHAUSTED when a model does not fit into `free_bytes` with the smallest useful KV cache,
// or with the one that was asked for: the text says what takes how much, and what would fit.
absl::Status CheckFits(const ModelSizes& sizes, const MemoryWishes& wishes, int64_t free_bytes);

// What a KV cache gets by itself, once the model is loaded and `free_bytes` are left: on a GPU all
// but what must stay free; beside other processes, a part.
int64_t KvShareBytes(const ModelSizes& sizes, int64_t free_bytes);

// What became of it.
struct MemoryPlan {
  std::string device;           // "cuda:0"
  std::string device_name;      // "NVIDIA H100 80GB HBM3"; empty: the process's memory
  int64_t total_bytes = 0;      // the device's; 0: not known
  int64_t free_bytes = 0;       // before the worker took any
  int64_t weight_bytes = 0;     // and so on: taken
  int64_t scratch_bytes = 0;    // activations of a step
  int64_t workspace_bytes = 0;  // the operations' own
  int64_t kv_bytes = 0;
  int64_t kv_blocks = 0;
  int64_t kv_tokens = 0;
  int64_t graph_bytes = 0;  // kept for recorded steps

  int64_t LeftBytes() const {
    return free_bytes - weight_bytes - scratch_bytes - workspace_bytes - kv_bytes - graph_bytes;
  }
};

// `kv_blocks` in every group of the model's cache.
MemoryPlan PlanOf(const ModelSizes& sizes, const MemoryWishes& wishes, int64_t free_bytes,
                  int64_t kv_blocks);

// One line a use, in GiB and bytes.
std::string MemoryTable(const MemoryPlan& plan);

void LogMemory(const MemoryPlan& plan);

}  // namespace fathom::worker
