#pragma once

// Where the engine thread puts its figures for others to read. Thread safety: every method may be
// called from any thread.

#include <mutex>

#include "worker/engine/request.h"

namespace fathom::worker {

class StatsBoard {
 public:
  void Publish(const EngineStats& stats) {
    const std::lock_guard lock(mutex_);
    stats_ = stats;
  }
  EngineStats Read() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  mutable std::mutex mutex_;
  EngineStats stats_;
};

}  // namespace fathom::worker
