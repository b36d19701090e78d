#include "master/models/model_size.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

}  // namespace

absl::StatusOr<int64_t> WeightBytes(const std::string& directory) {
  std::error_code error;
  int64_t bytes = 0;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().extension() != ".safetensors") continue;
    bytes += static_cast<int64_t>(it->file_size(error));
  }
  if (error) return absl::NotFoundError(absl::StrCat(directory, ": ", error.message()));
  return bytes;
}

int64_t DefaultKvCacheBytes(int64_t weight_bytes) {
  return std::clamp(weight_bytes / 2, 64 * kMiB, int64_t{16} << 30);
}

int64_t EstimateMemoryBytes(int64_t weight_bytes, int64_t kv_cache_bytes) {
  return weight_bytes + weight_bytes / 8 + kv_cache_bytes + 64 * kMiB;
}

}  // namespace fathom::master
