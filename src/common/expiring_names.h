#pragma once

// Names that hold for a while each, no more than so many at once. Whoever passes on what is new to
// it passes nothing on twice, so that news that goes round ends. One thread.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fathom {

class ExpiringNames {
 public:
  explicit ExpiringNames(size_t max) : max_(max) {}

  // True when it did not hold before and does now: it does not where there is no room.
  bool Add(const std::string& name, int64_t until_ns, int64_t now_ns) {
    std::erase_if(until_ns_, [now_ns](const auto& entry) { return entry.second <= now_ns; });
    if (until_ns <= now_ns) return false;
    if (until_ns_.size() >= max_ && !until_ns_.contains(name)) return false;
    const auto [entry, added] = until_ns_.try_emplace(name, until_ns);
    if (!added) entry->second = std::max(entry->second, until_ns);
    return added;
  }
  void Remove(const std::string& name) { until_ns_.erase(name); }

  // For how long yet; 0: it does not hold.
  int64_t LeftNs(const std::string& name, int64_t now_ns) const {
    const auto found = until_ns_.find(name);
    return found == until_ns_.end() ? 0 : std::max<int64_t>(0, found->second - now_ns);
  }
  // Those that hold, and for how long yet.
  std::vector<std::pair<std::string, int64_t>> All(int64_t now_ns) const {
    std::vector<std::pair<std::string, int64_t>> all;
    for (const auto& [name, until_ns] : until_ns_) {
      if (until_ns > now_ns) all.emplace_back(name, until_ns - now_ns);
    }
    return all;
  }
  size_t size() const { return until_ns_.size(); }  // some may hold no more

 private:
  const size_t max_;
  std::unordered_map<std::string, int64_t> until_ns_;
};

}  // namespace fathom
