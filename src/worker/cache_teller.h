#pragma once

// Tells masters of the prefix caches: keeps the set of names that each model's engine holds, turns
// changes into messages and answers requests for pages of all of them. A name that several hold
// (the same model, loaded under two names) is news when the first stores it and when the last
// evicts it. A master that has not asked for page 0 is told nothing: it is of a version that does
// not listen.
//
// Every message takes the next number of its link, whether it can be sent or not: a master that
// misses one sees the gap and asks again. Thread safety: none; the link thread owns it.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
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

  // The engine of a model tells of these; returns what is news for masters.
  CacheChanges Apply(const std::string& model, CacheChanges changes);
  // It is gone, and all that it held.
  CacheChanges Forget(const std::string& model);
  // Messages of these changes, which have been applied.
  static std::vector<v1::WorkerBulk> Tell(const CacheChanges& changes, Listener* listener);
  // The page it asks for; nothing when there is no such page.
  std::optional<v1::WorkerBulk> Page(uint64_t page, Listener* listener) const;

  size_t size() const;

 private:
  bool Holds(const Hash128& name) const;

  std::map<std::string, BlockNameSet> held_;  // by model
};

}  // namespace fathom::worker
