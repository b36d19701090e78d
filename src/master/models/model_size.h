#pragma once

// What a model takes on a worker, judged by its files: enough to look for a worker that has room.
// The worker has the last word, by its own reckoning.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace fathom::master {

// Bytes of the safetensors files of a directory in Hugging Face layout. NOT_FOUND for a directory
// that is none.
absl::StatusOr<int64_t> WeightBytes(const std::string& directory);

// Half of the weights, from 64 MiB to 16 GiB.
int64_t DefaultKvCacheBytes(int64_t weight_bytes);

// Weights, KV cache, and what steps need besides.
int64_t EstimateMemoryBytes(int64_t weight_bytes, int64_t kv_cache_bytes);

}  // namespace fathom::master
