#pragma once

// What changed in the prefix cache since somebody last asked. Changes are net: what came and went
// meanwhile is no news, so there is never more to tell than the cache has blocks, twice, whether
// anybody asks or not.
//
// Thread safety: every method may be called from any thread.

#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/siphash.h"

namespace fathom::worker {

// In the order in which they happened.
struct CacheChange {
  Hash128 name;
  bool stored = false;  // else evicted
};

struct CacheChanges {
  std::vector<Hash128> stored;
  std::vector<Hash128> evicted;
  bool empty() const { return stored.empty() && evicted.empty(); }
};

struct BlockNameHash {
  size_t operator()(const Hash128& name) const { return name.lo; }
};
using BlockNameSet = absl::flat_hash_set<Hash128, BlockNameHash>;

class CacheNews {
 public:
  void Add(std::span<const CacheChange> changes) {
    const std::lock_guard lock(mutex_);
    for (const CacheChange& change : changes) {
      BlockNameSet& opposite = change.stored ? evicted_ : stored_;
      if (opposite.erase(change.name) == 0) {
        (change.stored ? stored_ : evicted_).insert(change.name);
      }
    }
  }

  CacheChanges Take() {
    BlockNameSet stored;
    BlockNameSet evicted;
    {
      const std::lock_guard lock(mutex_);
      stored.swap(stored_);
      evicted.swap(evicted_);
    }
    return {{stored.begin(), stored.end()}, {evicted.begin(), evicted.end()}};
  }

 private:
  std::mutex mutex_;
  // State below is protected by mutex_.
  BlockNameSet stored_;
  BlockNameSet evicted_;
};

}  // namespace fathom::worker
