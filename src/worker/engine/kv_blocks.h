#pragma once

// All blocks of all KV groups, and the prefix cache over them: what a sequence holds, may reuse,
// and leaves behind.
//
// Invariants: blocks are named (and can be found by others) only when they are full and the step
// that wrote them has retired; a named block is never written again; a reused prefix is
// block-aligned and at most length - 1, so that there is always a token to compute. A group with a
// sliding window only needs, and only keeps, the blocks its next query sees.
// Thread safety: none; the engine thread owns it.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/siphash.h"
#include "worker/engine/block_pool.h"
#include "worker/engine/cache_news.h"
#include "worker/engine/sequence.h"
#include "worker/model/forward_input.h"
#include "worker/model/kv_spec.h"

namespace fathom::worker {

class KvBlocks {
 public:
  KvBlocks(const KvSpec& spec, const KvPlan& plan, bool prefix_cache);

  // Length in tokens of the longest cached prefix of `s` now.
  int32_t CachedTokens(Sequence* s) const;
  // Gives `s`, which holds nothing, that prefix; returns its length.
  int32_t AdoptPrefix(Sequence* s);
  // Gives `s`, which holds nothing, the first `num_tokens` of `from`: full blocks are shared, the
  // tail is copied. False, leaving `s` without blocks, when that is not possible now.
  bool Fork(const Sequence& from, int32_t num_tokens, Sequence* s, std::vector<BlockCopy>* copies);

  // Makes room for tokens [0, num_tokens) of `s`; all or nothing.
  bool TryExtend(Sequence* s, int32_t num_tokens);
  // Whether that would succeed if `freed[g]` more blocks were there and `reserve` were kept back.
  bool CanExtend(const Sequence& s, int32_t num_tokens, const std::vector<int32_t>& freed,
                 int32_t reserve) const;
  // The most tokens TryExtend could make room for now.
  int32_t MaxExtent(const Sequence& s) const;

  // After `s.computed` grew: names the blocks that became full, drops those behind a window.
  void Commit(Sequence* s);
  // Takes its blocks' names away: their content is not to be trusted.
  void Forget(const Sequence& s);
  // Gives everything back, the tail first, so that heads of prefixes live longer.
  void Release(Sequence* s);
  // Adds to `freed` what Release would make available.
  void CountOwned(const Sequence& s, std::vector<int32_t>* freed) const;

  // Names that others could find, or no longer can, since the last call.
  std::vector<CacheChange> TakeChanges() { return std::exchange(changes_, {}); }

  size_t num_groups() const { return groups_.size(); }
  int32_t block_tokens() const { return block_tokens_; }
  int32_t num_available() const;  // of the scarcest group
  int32_t num_total() const;      // of the same
  // CHECKs that the references of all blocks are those of `holders`, no more and no less.
  void CheckIntegrity(const std::vector<const Sequence*>& holders) const;

 private:
  struct Group {
    int32_t window = 0;  // tokens a query sees; 0: all
    absl::flat_hash_map<Hash128, BlockId, BlockNameHash> by_name;
    std::vector<Hash128> name_of;  // [blocks]
    std::unique_ptr<BlockPool> pool;
  };
  // Index of the first block that the query at `position` sees.
  int32_t FirstNeeded(const Group& group, int32_t position) const;
  int32_t NumBlocks(int32_t num_tokens) const {
    return (num_tokens + block_tokens_ - 1) / block_tokens_;
  }
  void NameBlocks(Sequence* s, int32_t count) const;
  int32_t LongestHit(Sequence* s) const;

  const int32_t block_tokens_;
  const bool prefix_cache_;
  std::vector<std::unique_ptr<Group>> groups_;
  // Of the first group that sees all tokens, else of the first one: a hit needs all of them, and
  // the others hold no more than it does.
  size_t told_group_ = 0;
  std::vector<CacheChange> changes_;
};

}  // namespace fathom::worker
