#include "worker/engine/kv_blocks.h"

#include <algorithm>
#include <climits>

#include "common/block_hash.h"
#include "common/check.h"

namespace fathom::worker {

KvBlocks::KvBlocks(const KvSpec& spec, const KvPlan& plan, bool prefix_cache)
    : block_tokens_(spec.block_tokens), prefix_cache_(prefix_cache) {
  for (size_t g = 0; g < spec.groups.size(); ++g) {
    auto group = std::make_unique<Group>();
    if (spec.groups[g].kind == KvGroupKind::kSlidingWindow) {
      group->window = spec.groups[g].window_tokens;
    }
    group->name_of.resize(plan.num_blocks[g]);
    group->pool =
        std::make_unique<BlockPool>(plan.num_blocks[g], [this, raw = group.get(), g](BlockId id) {
          raw->by_name.erase(raw->name_of[id]);
          if (g == told_group_) changes_.push_back({raw->name_of[id], /*stored=*/false});
        });
    groups_.push_back(std::move(group));
  }
  for (size_t g = groups_.size(); g-- > 0;) {
    if (groups_[g]->window == 0) told_group_ = g;
  }
}

int32_t KvBlocks::FirstNeeded(const Group& group, int32_t position) const {
  return group.window == 0 ? 0 : std::max(0, position - group.window + 1) / block_tokens_;
}

void KvBlocks::NameBlocks(Sequence* s, int32_t count) const {
  ExtendNames(s->request->prefix_scope, s->tokens, block_tokens_, count, &s->block_hashes);
}

// The most leading blocks h such that every group has those that the query after them sees.
int32_t KvBlocks::LongestHit(Sequence* s) const {
  if (!prefix_cache_) return 0;
  const int32_t max_blocks = (static_cast<int32_t>(s->tokens.size()) - 1) / block_tokens_;
  NameBlocks(s, max_blocks);
  std::vector<int32_t> run(groups_.size(), 0);  // blocks present without a gap, ending at i
  int32_t best = 0;
  for (int32_t i = 0; i < max_blocks; ++i) {
    bool hit = true;
    for (size_t g = 0; g < groups_.size(); ++g) {
      const Group& group = *groups_[g];
      run[g] = group.by_name.contains(s->block_hashes[i]) ? run[g] + 1 : 0;
      if (group.window == 0 && run[g] == 0) return best;
      hit &= run[g] >= i + 1 - FirstNeeded(group, (i + 1) * block_tokens_);
    }
    if (hit) best = i + 1;
  }
  return best;
}

int32_t KvBlocks::CachedTokens(Sequence* s) const { return LongestHit(s) * block_tokens_; }

int32_t KvBlocks::AdoptPrefix(Sequence* s) {
  FATHOM_CHECK(s->tables.empty(), "adopting a prefix over blocks");
  s->tables.resize(groups_.size());
  s->num_cached_blocks = 0;
  const int32_t hit = LongestHit(s);
  for (size_t g = 0; g < groups_.size(); ++g) {
    Group& group = *groups_[g];
    BlockTable& table = s->tables[g];
    table.blocks.resize(hit);
    table.num_released = FirstNeeded(group, hit * block_tokens_);
    for (int32_t i = table.num_released; i < hit; ++i) {
      table.blocks[i] = group.pool->Acquire(group.by_name.at(s->block_hashes[i]));
    }
  }
  s->num_cached_blocks = hit;
  return hit * block_tokens_;
}

bool KvBlocks::Fork(const Sequence& from, int32_t num_tokens, Sequence* s,
                    std::vector<BlockCopy>* copies) {
  FATHOM_CHECK(s->tables.empty(), "forking over blocks");
  const int32_t full = num_tokens / block_tokens_;
  const bool tail = num_tokens % block_tokens_ != 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = *groups_[g];
    const BlockTable& source = from.tables[g];
    if (static_cast<int32_t>(source.blocks.size()) < NumBlocks(num_tokens) ||
        source.num_released > FirstNeeded(group, num_tokens) ||
        (tail && group.pool->num_available() == 0)) {
      return false;
    }
  }
  s->tables.resize(groups_.size());
  s->num_cached_blocks = 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const BlockTable& source = from.tables[g];
    BlockTable& table = s->tables[g];
    table.blocks.resize(full);
    table.num_released = FirstNeeded(*groups_[g], num_tokens);
    for (int32_t i = table.num_released; i < full; ++i) table.blocks[i] = source.blocks[i].Share();
    if (!tail) continue;
    table.blocks.push_back(groups_[g]->pool->TryAllocate());
    table.copy_source = source.blocks[full].Share();
    copies->push_back({static_cast<int32_t>(g), table.copy_source.id(), table.blocks.back().id()});
  }
  return true;
}

bool KvBlocks::CanExtend(const Sequence& s, int32_t num_tokens, const std::vector<int32_t>& freed,
                         int32_t reserve) const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const int32_t missing = NumBlocks(num_tokens) - static_cast<int32_t>(s.tables[g].blocks.size());
    const int32_t extra = freed.empty() ? 0 : freed[g];
    if (missing > 0 && missing + reserve > groups_[g]->pool->num_available() + extra) return false;
  }
  return true;
}

bool KvBlocks::TryExtend(Sequence* s, int32_t num_tokens) {
  if (!CanExtend(*s, num_tokens, {}, 0)) return false;
  for (size_t g = 0; g < groups_.size(); ++g) {
    std::vector<BlockRef>& blocks = s->tables[g].blocks;
    while (static_cast<int32_t>(blocks.size()) < NumBlocks(num_tokens)) {
      blocks.push_back(groups_[g]->pool->TryAllocate());
      FATHOM_CHECK(blocks.back(), "the pool said it had a block");
    }
  }
  return true;
}

int32_t KvBlocks::MaxExtent(const Sequence& s) const {
  int64_t blocks = INT32_MAX;
  for (size_t g = 0; g < groups_.size(); ++g) {
    blocks = std::min<int64_t>(blocks, static_cast<int64_t>(s.tables[g].blocks.size()) +
                                           groups_[g]->pool->num_available());
  }
  return static_cast<int32_t>(std::min<int64_t>(blocks * block_tokens_, INT32_MAX));
}

void KvBlocks::Commit(Sequence* s) {
  const int32_t full = s->computed / block_tokens_;
  if (prefix_cache_ && full > s->num_cached_blocks) {
    NameBlocks(s, full);
    for (size_t g = 0; g < groups_.size(); ++g) {
      Group& group = *groups_[g];
      for (int32_t i = s->num_cached_blocks; i < full; ++i) {
        const BlockRef& block = s->tables[g].blocks[i];
        if (!block || !group.by_name.try_emplace(s->block_hashes[i], block.id()).second) continue;
        group.name_of[block.id()] = s->block_hashes[i];
        group.pool->MarkCached(block.id());
        if (g == told_group_) changes_.push_back({s->block_hashes[i], /*stored=*/true});
      }
    }
    s->num_cached_blocks = full;
  }
  for (size_t g = 0; g < groups_.size(); ++g) {
    BlockTable& table = s->tables[g];
    const int32_t needed =
        std::min(FirstNeeded(*groups_[g], s->computed), static_cast<int32_t>(table.blocks.size()));
    for (; table.num_released < needed; ++table.num_released) {
      table.blocks[table.num_released].Reset();
    }
  }
}

void KvBlocks::Forget(const Sequence& s) {
  for (size_t g = 0; g < s.tables.size(); ++g) {
    Group& group = *groups_[g];
    const std::vector<BlockRef>& blocks = s.tables[g].blocks;
    for (size_t i = 0; i < std::min(blocks.size(), s.block_hashes.size()); ++i) {
      const auto it = group.by_name.find(s.block_hashes[i]);
      if (!blocks[i] || it == group.by_name.end() || it->second != blocks[i].id()) continue;
      group.by_name.erase(it);
      group.pool->MarkUncached(blocks[i].id());
      if (g == told_group_) changes_.push_back({s.block_hashes[i], /*stored=*/false});
    }
  }
}

void KvBlocks::Release(Sequence* s) {
  for (BlockTable& table : s->tables) {
    while (!table.blocks.empty()) table.blocks.pop_back();
  }
  s->tables.clear();
  s->num_cached_blocks = 0;
}

void KvBlocks::CountOwned(const Sequence& s, std::vector<int32_t>* freed) const {
  freed->resize(groups_.size(), 0);
  for (size_t g = 0; g < s.tables.size(); ++g) {
    for (const BlockRef& block : s.tables[g].blocks) {
      if (block && groups_[g]->pool->references(block.id()) == 1) ++(*freed)[g];
    }
  }
}

int32_t KvBlocks::num_available() const {
  int32_t least = INT32_MAX;
  for (const auto& group : groups_) least = std::min(least, group->pool->num_available());
  return least;
}

int32_t KvBlocks::num_total() const {
  int32_t least = INT32_MAX;
  for (const auto& group : groups_) least = std::min(least, group->pool->total());
  return least;
}

void KvBlocks::CheckIntegrity(const std::vector<const Sequence*>& holders) const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = *groups_[g];
    std::vector<int32_t> references(group.pool->total(), 0);
    for (const Sequence* s : holders) {
      if (s->tables.empty()) continue;
      for (const BlockRef& block : s->tables[g].blocks) {
        if (block) ++references[block.id()];
      }
      if (s->tables[g].copy_source) ++references[s->tables[g].copy_source.id()];
    }
    int32_t available = 0;
    for (BlockId id = 0; id < group.pool->total(); ++id) {
      FATHOM_CHECK(group.pool->references(id) == references[id], "block references drifted");
      available += references[id] == 0 ? 1 : 0;
    }
    FATHOM_CHECK(available == group.pool->num_available(), "block counts drifted");
    for (const auto& [name, id] : group.by_name) {
      FATHOM_CHECK(group.name_of[id] == name, "the prefix cache names a block twice");
    }
  }
}

}  // namespace fathom::worker
