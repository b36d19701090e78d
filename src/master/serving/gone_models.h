#pragma once

// Which models requests wait for in vain: the catalogue does not want them any more and no worker
// has them. That has to be so for a while, since workers may be about to link, and a version may
// come back. Any time source; one thread.

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace fathom::master {

class GoneModels {
 public:
  static constexpr int64_t kPatienceNs = 5'000'000'000;

  // `gone`: all for which that holds now. Those of them for which it has held at every look for the
  // patience.
  std::set<std::string> Look(const std::set<std::string>& gone, int64_t now_ns) {
    std::erase_if(since_ns_, [&](const auto& entry) { return !gone.contains(entry.first); });
    std::set<std::string> vain;
    for (const std::string& model : gone) {
      if (now_ns - since_ns_.emplace(model, now_ns).first->second >= kPatienceNs) {
        vain.insert(model);
      }
    }
    return vain;
  }

 private:
  std::map<std::string, int64_t> since_ns_;
};

}  // namespace fathom::master
