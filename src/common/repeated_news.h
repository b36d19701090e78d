#pragma once

// What is worth one line and comes again and again: of each name it is to be said once in a while,
// with how many were held back since. Names are bounded: those over the bound share one. Thread
// safety: everything may be called from any thread.

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/time/time.h"
#include "common/clock.h"

namespace fathom {

class RepeatedNews {
 public:
  static constexpr absl::Duration kEvery = absl::Seconds(30);

  explicit RepeatedNews(const Clock* clock, size_t max_names = 1024)
      : max_names_(max_names), clock_(clock) {}

  // How many of this name were held back since it was last said; none: hold this one back as well.
  std::optional<int64_t> Say(const std::string& name) {
    const std::lock_guard lock(mutex_);
    const int64_t now_ns = clock_->MonotonicNs();
    const auto found = names_.find(name);
    if (found != names_.end()) return SayAgain(found->second, now_ns);
    if (names_.size() >= max_names_) {
      std::erase_if(names_, [&](const auto& entry) { return IsOver(entry.second, now_ns); });
    }
    if (names_.size() >= max_names_) return SayAgain(others_, now_ns);
    names_[name].said_ns = now_ns;
    return 0;
  }

 private:
  struct Name {
    std::optional<int64_t> said_ns;
    int64_t held_back = 0;
  };

  bool IsOver(const Name& name, int64_t now_ns) const {
    return !name.said_ns || now_ns - *name.said_ns >= absl::ToInt64Nanoseconds(kEvery);
  }
  std::optional<int64_t> SayAgain(Name& name, int64_t now_ns) const {
    if (!IsOver(name, now_ns)) {
      ++name.held_back;
      return std::nullopt;
    }
    name.said_ns = now_ns;
    return std::exchange(name.held_back, 0);
  }

  const size_t max_names_;
  const Clock* const clock_;
  std::mutex mutex_;
  // State below is protected by mutex_.
  std::unordered_map<std::string, Name> names_;
  Name others_;
};

}  // namespace fathom
