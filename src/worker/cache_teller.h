#pragma once

// Tells masters of the prefix cache: keeps the set of names the engine holds, turns changes into
// messages and answers requests for pages of the whole set. A master that has not asked for page 0
// is told nothing: it is of a version that does not listen.
//
// Every message takes the next number of its link, whether it can be sent or not: a master that
// misses one sees the gap and asks again. Thread safety: none; the link thread owns it.

#include <cstdint>
#include <optional>
#include <vector>

#include "fathom/v1/link.pb.h"
#include "worker/engine/cache_news.h"

namespace fathom::worker {

class CacheTeller {
 public:
  static constexpr size_t kNamesMax = 8192;  // in a message

  // A master, from Welcome to the end of its link.
  struct Listener {
    bool asked = false;
    uint64_t sequence = 0;        // of the last message
    std::vector<Hash128> resync;  // what there was when it asked for page 0, until the last page
  };

  void Apply(const CacheChanges& changes);
  // Messages of these changes, which have been applied.
  static std::vector<v1::WorkerBulk> Tell(const CacheChanges& changes, Listener* listener);
  // The page it asks for; nothing when there is no such page.
  std::optional<v1::WorkerBulk> Page(uint64_t page, Listener* listener) const;

  size_t size() const { return held_.size(); }

 private:
  BlockNameSet held_;
};

}  // namespace fathom::worker
