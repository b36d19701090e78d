#include "master/serving/prefix_index.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "common/check.h"

namespace fathom::master {

PrefixIndex::PrefixIndex(const PrefixIndexLimits& limits)
    : limits_(limits),
      place_mask_(std::bit_ceil(std::max<size_t>(limits.max_copies, 1)) - 1),
      places_(place_mask_ + 1) {
  // Untouched pages cost nothing, and growing would hold up whoever waits for a decision.
  blocks_.reserve(limits.max_copies + 1);
  blocks_.emplace_back();
}

PrefixIndex::Worker& PrefixIndex::WorkerAt(WorkerSlot worker) {
  FATHOM_CHECK(worker < kWorkerSlotsMax, "a worker's number is too large");
  if (worker >= workers_.size()) workers_.resize(worker + 1);
  return workers_[worker];
}

size_t PrefixIndex::num_copies_of(WorkerSlot worker) const {
  return worker < workers_.size() ? workers_[worker].copies.size() : 0;
}

PrefixIndex::BlockIndex PrefixIndex::Find(uint64_t name) const {
  BlockIndex index = places_[PlaceOf(name)];
  while (index != 0 && blocks_[index].name != name) index = blocks_[index].next;
  return index;
}

PrefixIndex::BlockIndex PrefixIndex::Add(uint64_t name) {
  BlockIndex index = free_;
  if (index != 0) {
    free_ = blocks_[index].next;
  } else {
    index = static_cast<BlockIndex>(blocks_.size());
    blocks_.emplace_back();
  }
  BlockIndex& head = places_[PlaceOf(name)];
  blocks_[index] = {.name = name, .next = head};
  head = index;
  ++num_blocks_;
  return index;
}

void PrefixIndex::Free(BlockIndex index) {
  Block& block = blocks_[index];
  if (block.count == kWide) {
    const uint32_t wide = WideIndex(block);
    wide_[wide] = {};
    free_wide_.push_back(wide);
  }
  BlockIndex* link = &places_[PlaceOf(block.name)];
  while (*link != index) link = &blocks_[*link].next;
  *link = block.next;
  block = {.next = free_};
  free_ = index;
  --num_blocks_;
}

template <typename Visit>
void PrefixIndex::ForEachHolder(const Block& block, Visit visit) const {
  if (block.count != kWide) {
    for (size_t i = 0; i < block.count; ++i) visit(block.holders[i]);
    return;
  }
  const WideSet& set = wide_[WideIndex(block)];
  for (const WorkerSlot worker : set.list) visit(worker);
  for (size_t w = 0; w < set.bits.size(); ++w) {
    for (uint64_t word = set.bits[w]; word != 0; word &= word - 1) {
      visit(static_cast<WorkerSlot>(64 * w + std::countr_zero(word)));
    }
  }
}

void PrefixIndex::AddHolder(BlockIndex index, WorkerSlot worker) {
  Block& block = blocks_[index];
  if (block.count < kInlineHolders) {
    block.holders[block.count++] = worker;
    return;
  }
  if (block.count != kWide) {
    uint32_t wide = static_cast<uint32_t>(wide_.size());
    if (free_wide_.empty()) {
      wide_.emplace_back();
    } else {
      wide = free_wide_.back();
      free_wide_.pop_back();
    }
    wide_[wide].list.assign(block.holders.begin(), block.holders.end());
    wide_[wide].count = kInlineHolders;
    block.holders = {static_cast<WorkerSlot>(wide), static_cast<WorkerSlot>(wide >> 16)};
    block.count = kWide;
  }
  WideSet& set = wide_[WideIndex(block)];
  ++set.count;
  if (set.bits.empty() && set.list.size() < kListMax) {
    set.list.push_back(worker);
    return;
  }
  if (set.bits.empty()) {
    set.bits.resize(kWords);
    for (const WorkerSlot w : set.list) set.bits[w / 64] |= uint64_t{1} << (w % 64);
    set.list = {};
  }
  set.bits[worker / 64] |= uint64_t{1} << (worker % 64);
}

void PrefixIndex::RemoveHolder(BlockIndex index, WorkerSlot worker) {
  Block& block = blocks_[index];
  if (block.count != kWide) {
    const auto end = block.holders.begin() + block.count;
    *std::find(block.holders.begin(), end, worker) = *(end - 1);
    if (--block.count == 0) Free(index);
    return;
  }
  WideSet& set = wide_[WideIndex(block)];
  if (set.bits.empty()) {
    *std::find(set.list.begin(), set.list.end(), worker) = set.list.back();
    set.list.pop_back();
  } else {
    set.bits[worker / 64] &= ~(uint64_t{1} << (worker % 64));
  }
  if (--set.count == 0) Free(index);
}

void PrefixIndex::RemoveCopy(BlockIndex index, WorkerSlot worker) {
  if (workers_[worker].copies.erase(index) == 0) return;
  --num_copies_;
  RemoveHolder(index, worker);
}

// Takes the first block from the hand on that was not used since it last came by.
void PrefixIndex::MakeRoom() {
  while (true) {
    if (hand_ >= blocks_.size()) hand_ = 1;
    const BlockIndex index = hand_++;
    Block& block = blocks_[index];
    if (block.count == 0 || std::exchange(block.used, false)) continue;
    ForEachHolder(block, [&](WorkerSlot worker) {
      workers_[worker].copies.erase(index);
      --num_copies_;
    });
    return Free(index);
  }
}

bool PrefixIndex::AddCopy(WorkerSlot worker, uint64_t name, uint32_t mark) {
  Worker& holder = WorkerAt(worker);
  const bool expected = (mark & kExpectedBit) != 0;
  BlockIndex index = Find(name);
  if (index != 0) {
    blocks_[index].used |= expected;
    const auto it = holder.copies.find(index);
    if (it != holder.copies.end()) {
      // What the worker told stays known; what is expected may be expected for longer.
      const bool known = (it->second & kExpectedBit) == 0;
      if (!expected || !known) it->second = mark;
      return !expected || !known;
    }
  }
  if (holder.copies.size() >= limits_.max_copies_per_worker) return false;
  if (num_copies_ >= limits_.max_copies) {
    MakeRoom();
    index = Find(name);
  }
  if (index == 0) index = Add(name);
  blocks_[index].used |= expected;
  holder.copies.emplace(index, mark);
  AddHolder(index, worker);
  ++num_copies_;
  return true;
}

void PrefixIndex::Expect(WorkerSlot worker, std::span<const Hash128> chain, int64_t now_ns) {
  Expire(Ticks(now_ns));
  const uint32_t until = Ticks(now_ns + limits_.expected_ns);
  // The tail first, so that heads, which others share, are the last to go.
  for (size_t i = chain.size(); i-- > 0;) {
    if (!AddCopy(worker, chain[i].lo, until | kExpectedBit)) continue;
    if (expected_.size() >= limits_.max_copies) expected_.pop_front();
    expected_.push_back({Find(chain[i].lo), worker, until});
  }
}

void PrefixIndex::Expire(uint32_t now) {
  while (!expected_.empty() && expected_.front().until < now) {
    const Expected gone = expected_.front();
    expected_.pop_front();
    const Worker& worker = workers_[gone.worker];
    const auto it = worker.copies.find(gone.block);
    if (it != worker.copies.end() && it->second == (gone.until | kExpectedBit)) {
      RemoveCopy(gone.block, gone.worker);
    }
  }
}

void PrefixIndex::Store(WorkerSlot worker, std::span<const Hash128> names) {
  const uint32_t mark = WorkerAt(worker).resync;
  for (const Hash128& name : names) AddCopy(worker, name.lo, mark);
}

void PrefixIndex::Evict(WorkerSlot worker, std::span<const Hash128> names) {
  if (worker >= workers_.size()) return;
  for (const Hash128& name : names) {
    if (const BlockIndex index = Find(name.lo); index != 0) RemoveCopy(index, worker);
  }
}

void PrefixIndex::BeginResync(WorkerSlot worker) {
  Worker& holder = WorkerAt(worker);
  holder.resync = (holder.resync + 1) & ~kExpectedBit;
}

void PrefixIndex::EndResync(WorkerSlot worker) {
  Worker& holder = WorkerAt(worker);
  std::vector<BlockIndex> gone;
  for (const auto& [index, mark] : holder.copies) {
    if ((mark & kExpectedBit) == 0 && mark != holder.resync) gone.push_back(index);
  }
  for (const BlockIndex index : gone) RemoveCopy(index, worker);
}

void PrefixIndex::Drop(WorkerSlot worker) {
  if (worker >= workers_.size()) return;
  for (const auto& [index, mark] : workers_[worker].copies) RemoveHolder(index, worker);
  num_copies_ -= workers_[worker].copies.size();
  workers_[worker] = {};
}

void PrefixIndex::SetBits(const Block& block, size_t words, uint64_t* bits) const {
  if (block.count == kWide) {
    const WideSet& set = wide_[WideIndex(block)];
    if (!set.bits.empty()) {
      std::copy_n(set.bits.begin(), words, bits);
      return;
    }
  }
  std::fill_n(bits, words, 0);
  ForEachHolder(block, [bits](WorkerSlot w) { bits[w / 64] |= uint64_t{1} << (w % 64); });
}

// Walks the blocks first, first + stride, ... and the one before `end`, while any worker of
// `active`, all of which hold the one before, is left. Calls leave(word, workers, position) for
// those that do not hold the block there.
template <typename Leave>
void PrefixIndex::Walk(std::span<const Hash128> chain, size_t first, size_t stride, Bits* active,
                       Leave leave) const {
  // Names are spread at random: without asking ahead every one of them would wait for memory.
  constexpr size_t kAskPlace = 16;
  constexpr size_t kAskBlock = 12;
  constexpr size_t kAskSet = 8;
  constexpr size_t kAskBits = 4;
  const size_t words = (workers_.size() + 63) / 64;
  const auto ahead = [&](size_t at, size_t steps) {
    return PlaceOf(chain[std::min(at + steps * stride, chain.size() - 1)].lo);
  };
  Bits holders;
  for (size_t at = first; at < chain.size();) {
    __builtin_prefetch(&places_[ahead(at, kAskPlace)]);
    __builtin_prefetch(&blocks_[places_[ahead(at, kAskBlock)]]);
    if (const Block& soon = blocks_[places_[ahead(at, kAskSet)]]; soon.count == kWide) {
      __builtin_prefetch(&wide_[WideIndex(soon)]);
    }
    if (const Block& soon = blocks_[places_[ahead(at, kAskBits)]]; soon.count == kWide) {
      const WideSet& set = wide_[WideIndex(soon)];
      __builtin_prefetch(set.bits.empty() ? static_cast<const void*>(set.list.data())
                                          : set.bits.data());
    }
    SetBits(blocks_[Find(chain[at].lo)], words, holders.data());  // block 0 has no holder
    uint64_t left = 0;
    for (size_t w = 0; w < words; ++w) {
      const uint64_t lost = (*active)[w] & ~holders[w];
      if (lost != 0) leave(w, lost, at);
      left |= (*active)[w] &= holders[w];
    }
    if (left == 0) return;
    at = at + 1 < chain.size() ? std::min(at + stride, chain.size() - 1) : chain.size();
  }
}

void PrefixIndex::Match(std::span<const Hash128> chain, std::vector<PrefixMatch>* matches) const {
  matches->clear();
  const BlockIndex head = chain.empty() ? 0 : Find(chain[0].lo);
  if (head == 0) return;
  const size_t words = (workers_.size() + 63) / 64;
  const auto add = [&](size_t w, uint64_t word, size_t length) {
    for (; word != 0; word &= word - 1) {
      matches->push_back(
          {static_cast<WorkerSlot>(64 * w + std::countr_zero(word)), static_cast<int32_t>(length)});
    }
  };
  const size_t stride = (chain.size() + kLookUps - 1) / kLookUps;
  Bits active;
  SetBits(blocks_[head], words, active.data());
  size_t walked = 0;  // where `lost` were lost
  bool any_lost = false;
  Bits lost;
  std::fill_n(lost.begin(), words, 0);
  // Those that were lost at `walked` hold the block looked at before it: between the two they are
  // followed block by block.
  const auto follow_lost = [&] {
    if (!std::exchange(any_lost, false)) return;
    const size_t from = (walked - 1) / stride * stride;
    Walk(chain.first(walked), from + 1, 1, &lost, add);
    for (size_t w = 0; w < words; ++w) add(w, std::exchange(lost[w], 0), walked);
  };
  Walk(chain, stride, stride, &active, [&](size_t w, uint64_t word, size_t at) {
    if (at != walked) follow_lost();
    walked = at;
    any_lost = true;
    lost[w] |= word;
  });
  follow_lost();
  for (size_t w = 0; w < words; ++w) add(w, active[w], chain.size());
}

size_t PrefixIndex::MemoryBytes() const {
  size_t bytes = places_.capacity() * sizeof(BlockIndex) + blocks_.size() * sizeof(Block) +
                 wide_.capacity() * sizeof(WideSet) + free_wide_.capacity() * sizeof(uint32_t) +
                 expected_.size() * sizeof(Expected) + workers_.capacity() * sizeof(Worker);
  for (const WideSet& set : wide_) {
    bytes += set.list.capacity() * sizeof(WorkerSlot) + set.bits.capacity() * sizeof(uint64_t);
  }
  for (const Worker& worker : workers_) {
    bytes += worker.copies.capacity() * (sizeof(std::pair<BlockIndex, uint32_t>) + 1);
  }
  return bytes;
}

}  // namespace fathom::master
