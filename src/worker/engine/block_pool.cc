#include "worker/engine/block_pool.h"

#include "common/check.h"

namespace fathom::worker {

BlockRef BlockRef::Share() const {
  FATHOM_CHECK(pool_ != nullptr, "sharing an empty reference");
  pool_->AddReference(id_);
  return {pool_, id_};
}

void BlockRef::Reset() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->Release(id_);
}

BlockPool::BlockPool(int32_t num_blocks, std::function<void(BlockId)> on_evict)
    : blocks_(num_blocks), num_available_(num_blocks), on_evict_(std::move(on_evict)) {
  free_.reserve(num_blocks);
  for (BlockId id = num_blocks - 1; id >= 0; --id) free_.push_back(id);
}

BlockPool::~BlockPool() { FATHOM_CHECK(num_available_ == total(), "a KV block leaked"); }

BlockRef BlockPool::TryAllocate() {
  BlockId id = -1;
  if (!free_.empty()) {
    id = free_.back();
    free_.pop_back();
  } else if (oldest_ >= 0) {
    id = oldest_;
    on_evict_(id);
    Unlink(id);
    blocks_[id].cached = false;
  } else {
    return {};
  }
  FATHOM_CHECK(blocks_[id].references == 0, "allocating a block in use");
  blocks_[id].references = 1;
  --num_available_;
  return {this, id};
}

BlockRef BlockPool::Acquire(BlockId id) {
  FATHOM_CHECK(blocks_[id].cached, "acquiring a block that is not cached");
  if (blocks_[id].references == 0) {
    Unlink(id);
    --num_available_;
  }
  ++blocks_[id].references;
  return {this, id};
}

void BlockPool::MarkCached(BlockId id) {
  FATHOM_CHECK(blocks_[id].references > 0, "caching a block nobody uses");
  blocks_[id].cached = true;
}

void BlockPool::MarkUncached(BlockId id) {
  FATHOM_CHECK(blocks_[id].references > 0, "uncaching a block nobody uses");
  blocks_[id].cached = false;
}

void BlockPool::AddReference(BlockId id) {
  FATHOM_CHECK(blocks_[id].references > 0, "sharing a block nobody uses");
  ++blocks_[id].references;
}

void BlockPool::Release(BlockId id) {
  Block& block = blocks_[id];
  FATHOM_CHECK(block.references > 0, "releasing a block nobody uses");
  if (--block.references > 0) return;
  ++num_available_;
  if (!block.cached) {
    free_.push_back(id);
    return;
  }
  block.previous = newest_;
  block.next = -1;
  if (newest_ >= 0) blocks_[newest_].next = id;
  newest_ = id;
  if (oldest_ < 0) oldest_ = id;
}

void BlockPool::Unlink(BlockId id) {
  Block& block = blocks_[id];
  (block.previous >= 0 ? blocks_[block.previous].next : oldest_) = block.next;
  (block.next >= 0 ? blocks_[block.next].previous : newest_) = block.previous;
  block.previous = block.next = -1;
}

}  // namespace fathom::worker
