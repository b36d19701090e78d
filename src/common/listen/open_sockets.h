#pragma once

// Counts sockets that were handed to somebody who does not tell when they are closed. It keeps each
// one's number and inode and looks, when it has to know, whether that number is still that socket:
// nothing is held open by being counted. One thread.

#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "common/clock.h"

namespace fathom {

class OpenSockets {
 public:
  OpenSockets(size_t max, const Clock* clock) : max_(max), clock_(clock) {}

  // Counts it in, unless as many as may be are open. A number that comes again was closed before.
  bool Add(int fd) {
    inodes_.erase(fd);
    if (inodes_.size() >= max_) Forget();
    struct stat status {};
    if (inodes_.size() >= max_ || fstat(fd, &status) != 0) return false;
    inodes_[fd] = status.st_ino;
    return true;
  }

 private:
  // Looking at thousands for each of a flood of thousands would cost more than the flood.
  static constexpr int64_t kPauseNs = 50'000'000;
  static constexpr int64_t kPauseTimes = 20;

  // Those that are closed.
  void Forget() {
    const int64_t now_ns = clock_->MonotonicNs();
    if (now_ns < next_look_ns_) return;
    std::erase_if(inodes_, [](const auto& entry) {
      struct stat status {};
      return fstat(entry.first, &status) != 0 || !S_ISSOCK(status.st_mode) ||
             status.st_ino != entry.second;
    });
    const int64_t end_ns = clock_->MonotonicNs();
    next_look_ns_ = end_ns + std::max(kPauseNs, kPauseTimes * (end_ns - now_ns));
  }

  const size_t max_;
  const Clock* const clock_;
  int64_t next_look_ns_ = 0;
  std::unordered_map<int, uint64_t> inodes_;  // by descriptor
};

}  // namespace fathom
