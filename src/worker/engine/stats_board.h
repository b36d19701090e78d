#pragma once

// Where the engine thread puts its figures, and the news of its prefix cache, for others to read.
// Thread safety: every method may be called from any thread.

#include <mutex>

#include "worker/engine/cache_news.h"
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
  CacheNews& cache_news() { return cache_news_; }

 private:
  mutable std::mutex mutex_;
  EngineStats stats_;
  CacheNews cache_news_;
};

}  // namespace fathom::worker
