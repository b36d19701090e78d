#include "worker/engine/block_pool.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace fathom::worker {
namespace {

class BlockPoolTest : public testing::Test {
 protected:
  std::vector<BlockId> evicted_;
  BlockPool pool_{3, [this](BlockId id) { evicted_.push_back(id); }};
};

TEST_F(BlockPoolTest, GivesEveryBlockOnceThenNone) {
  std::vector<BlockRef> all;
  for (int i = 0; i < 3; ++i) all.push_back(pool_.TryAllocate());
  EXPECT_NE(all[0].id(), all[1].id());
  EXPECT_NE(all[1].id(), all[2].id());
  EXPECT_FALSE(pool_.TryAllocate());
  EXPECT_EQ(pool_.num_available(), 0);
  all.clear();
  EXPECT_EQ(pool_.num_available(), 3);
}

TEST_F(BlockPoolTest, SharedBlockIsFreedOnlyByItsLastOwner) {
  BlockRef a = pool_.TryAllocate();
  BlockRef b = a.Share();
  EXPECT_EQ(pool_.references(a.id()), 2);
  a.Reset();
  EXPECT_EQ(pool_.num_available(), 2);
  b.Reset();
  EXPECT_EQ(pool_.num_available(), 3);
}

TEST_F(BlockPoolTest, MovingARefMovesItsReference) {
  BlockRef a = pool_.TryAllocate();
  BlockRef b = std::move(a);
  EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move): empty is what is promised
  EXPECT_TRUE(b);
  a = pool_.TryAllocate();
  b = std::move(a);
  EXPECT_EQ(pool_.num_available(), 2);
}

TEST_F(BlockPoolTest, CachedBlocksGoInTheOrderOfTheirLastUse) {
  std::vector<BlockRef> all;
  for (int i = 0; i < 3; ++i) all.push_back(pool_.TryAllocate());
  const BlockId first = all[1].id();
  const BlockId second = all[0].id();
  pool_.MarkCached(first);
  pool_.MarkCached(second);
  all[1].Reset();
  all[0].Reset();
  EXPECT_EQ(pool_.num_available(), 2);
  pool_.Acquire(first).Reset();  // now the newest
  BlockRef x = pool_.TryAllocate();
  BlockRef y = pool_.TryAllocate();
  EXPECT_EQ(evicted_, (std::vector<BlockId>{second, first}));
  EXPECT_EQ(x.id(), second);
}

TEST_F(BlockPoolTest, FreeBlocksGoBeforeCachedOnes) {
  BlockRef a = pool_.TryAllocate();
  pool_.MarkCached(a.id());
  a.Reset();
  BlockRef b = pool_.TryAllocate();
  BlockRef c = pool_.TryAllocate();
  EXPECT_TRUE(evicted_.empty());
  BlockRef d = pool_.TryAllocate();
  EXPECT_EQ(evicted_.size(), 1U);
}

TEST_F(BlockPoolTest, ARevivedBlockIsNotEvicted) {
  BlockRef a = pool_.TryAllocate();
  pool_.MarkCached(a.id());
  const BlockId id = a.id();
  a.Reset();
  BlockRef again = pool_.Acquire(id);
  BlockRef b = pool_.TryAllocate();
  BlockRef c = pool_.TryAllocate();
  EXPECT_FALSE(pool_.TryAllocate());
  EXPECT_TRUE(evicted_.empty());
}

TEST(BlockPoolDeathTest, ALeakIsFoundAtTheEnd) {
  EXPECT_DEATH(
      {
        BlockPool pool(1, [](BlockId) {});
        auto* leaked = new BlockRef(pool.TryAllocate());
        (void)leaked;
      },
      "a KV block leaked");
}

}  // namespace
}  // namespace fathom::worker
