#pragma once

// Which worker holds which blocks of which prefixes, as far as this master knows: what workers tell
// of their caches, and what they were sent and will hold soon. A chain of names asks it for the
// length of the leading run that each worker holds.
//
// Invariants:
//   1. A copy (a block on a worker) is known or expected. An expected one that no event confirms
//      within `expected_ns` is forgotten.
//   2. There are never more than max_copies copies, nor max_copies_per_worker of one worker. Where
//      there is no room, a block that was not sent lately goes, with all its copies (second chance,
//      which approximates the least recently used one).
//   3. Match costs time by the length of the run and the sets of holders, not by the number of
//      workers; Drop by the copies of that worker.
// Memory: 24 bytes a block, 4 bytes a place in a table of fixed size, 14 to 20 bytes a copy, and
// some 80 bytes and 2 to 4 a copy more for a block of more than three holders.
//
// Names are keyed hashes, so half of one tells blocks apart. Thread safety: none.

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/siphash.h"

namespace fathom::master {

// A worker's number: small, dense, used again once its worker is gone.
using WorkerSlot = uint16_t;
inline constexpr size_t kWorkerSlotsMax = 4096;

struct PrefixMatch {
  WorkerSlot worker = 0;
  int32_t blocks = 0;  // > 0
};

struct PrefixIndexLimits {
  size_t max_copies = size_t{2} << 20;
  size_t max_copies_per_worker = size_t{1} << 19;
  int64_t expected_ns = 30'000'000'000;
};

class PrefixIndex {
 public:
  static constexpr size_t kLookUps = 256;

  explicit PrefixIndex(const PrefixIndexLimits& limits = {});

  // The worker was sent a prompt of these blocks.
  void Expect(WorkerSlot worker, std::span<const Hash128> chain, int64_t now_ns);
  // The worker says so.
  void Store(WorkerSlot worker, std::span<const Hash128> names);
  void Evict(WorkerSlot worker, std::span<const Hash128> names);
  // What the worker told before, and does not store again before EndResync, is forgotten then.
  void BeginResync(WorkerSlot worker);
  void EndResync(WorkerSlot worker);
  // The worker is gone; its number is free.
  void Drop(WorkerSlot worker);

  // For each worker that holds the first block: how many leading blocks it holds. In no order. Of
  // chains longer than kLookUps not every block is looked at: engines free the tails of prefixes
  // first, so a worker that lacks one in the middle and holds the rest is rare, and only costs a
  // guess.
  void Match(std::span<const Hash128> chain, std::vector<PrefixMatch>* matches) const;

  size_t num_blocks() const { return num_blocks_; }
  size_t num_copies() const { return num_copies_; }
  size_t num_copies_of(WorkerSlot worker) const;
  // By capacity of what it has allocated.
  size_t MemoryBytes() const;

 private:
  using BlockIndex = uint32_t;  // 0 is none
  static constexpr size_t kInlineHolders = 3;
  static constexpr uint8_t kWide = UINT8_MAX;
  static constexpr size_t kListMax = 128;  // longer lists of holders are bitmaps
  static constexpr size_t kWords = kWorkerSlotsMax / 64;
  using Bits = std::array<uint64_t, kWords>;  // a set of workers

  struct Block {
    uint64_t name = 0;
    // The holders, or, when count is kWide, the index into wide_ in the first two.
    std::array<WorkerSlot, kInlineHolders> holders{};
    uint8_t count = 0;  // 0: free
    bool used = false;  // sent since the hand passed by
    BlockIndex next = 0;
  };
  // Holders of a block that has more than a few: a list, or a bitmap.
  struct WideSet {
    std::vector<WorkerSlot> list;
    std::vector<uint64_t> bits;
    uint32_t count = 0;
  };
  struct Expected {
    BlockIndex block = 0;
    WorkerSlot worker = 0;
    uint32_t until = 0;
  };
  struct Worker {
    // By block: a mark with kExpectedBit and the time it ends, or without it and the resync that
    // it was told in.
    absl::flat_hash_map<BlockIndex, uint32_t> copies;
    uint32_t resync = 0;
  };
  static constexpr uint32_t kExpectedBit = uint32_t{1} << 31;

  static uint32_t Ticks(int64_t ns) { return static_cast<uint32_t>(ns >> 27) & ~kExpectedBit; }
  size_t PlaceOf(uint64_t name) const { return name & place_mask_; }
  BlockIndex Find(uint64_t name) const;
  BlockIndex Add(uint64_t name);
  void Free(BlockIndex index);
  // False when there is no room.
  bool AddCopy(WorkerSlot worker, uint64_t name, uint32_t mark);
  void RemoveHolder(BlockIndex index, WorkerSlot worker);
  void AddHolder(BlockIndex index, WorkerSlot worker);
  void RemoveCopy(BlockIndex index, WorkerSlot worker);
  void MakeRoom();
  void Expire(uint32_t now);
  template <typename Leave>
  void Walk(std::span<const Hash128> chain, size_t first, size_t stride, Bits* active,
            Leave leave) const;
  uint32_t WideIndex(const Block& block) const {
    return block.holders[0] | static_cast<uint32_t>(block.holders[1]) << 16;
  }
  template <typename Visit>
  void ForEachHolder(const Block& block, Visit visit) const;
  void SetBits(const Block& block, size_t words, uint64_t* bits) const;
  Worker& WorkerAt(WorkerSlot worker);

  const PrefixIndexLimits limits_;
  const uint64_t place_mask_;
  std::vector<BlockIndex> places_;  // [power of two] heads of chains
  std::vector<Block> blocks_;       // [1 + ...]
  BlockIndex free_ = 0;
  std::vector<WideSet> wide_;
  std::vector<uint32_t> free_wide_;
  std::vector<Worker> workers_;
  std::deque<Expected> expected_;  // in the order of `until`
  size_t num_blocks_ = 0;
  size_t num_copies_ = 0;
  BlockIndex hand_ = 1;
};

}  // namespace fathom::master
