#pragma once

// The block ids of one KV group: who uses which, and which hold a cached prefix nobody uses.
//
// Invariants: a block is in use (references > 0), evictable (cached, no reference, in the order of
// last use) or free; allocation takes free blocks first, then the least recently used evictable
// one. A BlockRef is one reference and gives it back when it goes; the pool outlives its refs, and
// its destructor checks that none is left. Thread safety: none; the engine thread owns it.

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "worker/model/forward_input.h"

namespace fathom::worker {

class BlockPool;

class BlockRef {
 public:
  BlockRef() = default;
  BlockRef(BlockRef&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
  BlockRef& operator=(BlockRef&& other) noexcept {
    if (this != &other) {
      Reset();
      pool_ = std::exchange(other.pool_, nullptr);
      id_ = other.id_;
    }
    return *this;
  }
  ~BlockRef() { Reset(); }

  // One more reference to the same block.
  BlockRef Share() const;
  void Reset();
  explicit operator bool() const { return pool_ != nullptr; }
  BlockId id() const { return id_; }

 private:
  friend class BlockPool;
  BlockRef(BlockPool* pool, BlockId id) : pool_(pool), id_(id) {}
  BlockPool* pool_ = nullptr;
  BlockId id_ = -1;
};

class BlockPool {
 public:
  // `on_evict` is called when a cached block is about to be used for something else.
  BlockPool(int32_t num_blocks, std::function<void(BlockId)> on_evict);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // Empty when every block is in use.
  BlockRef TryAllocate();
  // A reference to a cached block, in use or not.
  BlockRef Acquire(BlockId id);
  // The block holds a cached prefix: kept, once nobody uses it, until its space is needed.
  void MarkCached(BlockId id);
  // It does no more; it must be in use.
  void MarkUncached(BlockId id);

  int32_t total() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t num_available() const { return num_available_; }  // free or evictable
  int32_t references(BlockId id) const { return blocks_[id].references; }

 private:
  friend class BlockRef;
  struct Block {
    int32_t references = 0;
    bool cached = false;
    BlockId previous = -1;  // in the evictable list
    BlockId next = -1;
  };
  void AddReference(BlockId id);
  void Release(BlockId id);
  void Unlink(BlockId id);

  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  BlockId oldest_ = -1;  // ends of the evictable list
  BlockId newest_ = -1;
  int32_t num_available_;
  const std::function<void(BlockId)> on_evict_;
};

}  // namespace fathom::worker
