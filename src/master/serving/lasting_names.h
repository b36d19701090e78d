#pragma once

// Names for which something has held at every look for a while: workers are about to link, a
// version comes back, and what seemed wrong is over. Any time source; one thread.

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace fathom::master {

class LastingNames {
 public:
  static constexpr int64_t kPatienceNs = 5'000'000'000;

  // `now`: all for which it holds now. Those of them for which it has held for the patience.
  std::set<std::string> Look(const std::set<std::string>& now, int64_t now_ns) {
    std::erase_if(since_ns_, [&](const auto& entry) { return !now.contains(entry.first); });
    std::set<std::string> lasting;
    for (const std::string& name : now) {
      if (now_ns - since_ns_.emplace(name, now_ns).first->second >= kPatienceNs) {
        lasting.insert(name);
      }
    }
    return lasting;
  }

 private:
  std::map<std::string, int64_t> since_ns_;
};

}  // namespace fathom::master
