#include "worker/memory_budget.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"

namespace fathom::worker {
namespace {

constexpr double kKvFraction = 0.4;
constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// /proc and cgroup files tell no size, so they are read as streams.
std::optional<std::string> Slurp(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number after `key` at the start of a line.
std::optional<int64_t> FieldOf(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key)) continue;
    std::istringstream rest(line.substr(key.size()));
    int64_t value = 0;
    if (rest >> value) return value;
  }
  return std::nullopt;
}

// kUnlimited for "max" and for what is not there.
int64_t NumberIn(const std::string& path) {
  const auto text = Slurp(path);
  if (!text) return kUnlimited;
  std::istringstream in(*text);
  int64_t value = 0;
  return in >> value ? value : kUnlimited;
}

// What is left under one cgroup's limit.
int64_t Left(const std::string& folder, const char* limit_file, const char* usage_file,
             const char* cache_key) {
  const int64_t limit = NumberIn(absl::StrCat(folder, "/", limit_file));
  const int64_t usage = NumberIn(absl::StrCat(folder, "/", usage_file));
  if (limit == kUnlimited || usage == kUnlimited) return kUnlimited;
  const auto stat = Slurp(absl::StrCat(folder, "/memory.stat"));
  const int64_t cache = stat ? FieldOf(*stat, cache_key).value_or(0) : 0;
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, usage - cache));
}

// "/a/b", "/a", "": a cgroup and those above it.
std::vector<std::string> WithParents(std::string path) {
  std::vector<std::string> all;
  while (!path.empty() && path != "/") {
    all.push_back(path);
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  all.emplace_back();
  return all;
}

}  // namespace

absl::StatusOr<int64_t> FreeMemoryBytes(const std::string& root) {
  const auto meminfo = Slurp(absl::StrCat(root, "/proc/meminfo"));
  const auto available = meminfo ? FieldOf(*meminfo, "MemAvailable:") : std::nullopt;
  if (!available) return absl::InternalError("/proc/meminfo does not tell MemAvailable");
  int64_t free = *available * 1024;

  std::istringstream groups(Slurp(absl::StrCat(root, "/proc/self/cgroup")).value_or("0::/"));
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    for (const std::string& group : WithParents(line.substr(second + 1))) {
      if (controllers.empty()) {
        free = std::min(free, Left(absl::StrCat(root, "/sys/fs/cgroup", group), "memory.max",
                                   "memory.current", "inactive_file "));
      } else if (controllers == "memory") {
        free = std::min(
            free, Left(absl::StrCat(root, "/sys/fs/cgroup/memory", group), "memory.limit_in_bytes",
                       "memory.usage_in_bytes", "total_inactive_file "));
      }
    }
  }
  return free;
}

int64_t KvBudgetBytes(int64_t free_bytes) {
  return static_cast<int64_t>(static_cast<double>(free_bytes) * kKvFraction);
}

int64_t FreeBytesForKv(int64_t kv_bytes) {
  return static_cast<int64_t>(std::ceil(static_cast<double>(kv_bytes) / kKvFraction)) + 1;
}

}  // namespace fathom::worker
