#include "worker/engine/cache_news.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/random.h"

namespace fathom::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(CacheNewsTest, WhatCameAndWentIsNoNews) {
  CacheNews news;
  const Hash128 a{1, 1};
  const Hash128 b{2, 2};
  news.Add(std::vector<CacheChange>{{a, true}, {b, true}, {b, false}});
  CacheChanges changes = news.Take();
  EXPECT_THAT(changes.stored, ElementsAre(a));
  EXPECT_THAT(changes.evicted, IsEmpty());
  EXPECT_TRUE(news.Take().empty());

  news.Add(std::vector<CacheChange>{{a, false}});
  news.Add(std::vector<CacheChange>{{a, true}});
  EXPECT_TRUE(news.Take().empty());
  news.Add(std::vector<CacheChange>{{a, false}});
  EXPECT_THAT(news.Take().evicted, ElementsAre(a));
}

// Whoever applies all news in order has what the cache has, however seldom he asks.
TEST(CacheNewsTest, NewsAddUpAndStayBounded) {
  constexpr uint64_t kBlocks = 50;
  SeededRandom random(3);
  CacheNews news;
  BlockNameSet cache;
  BlockNameSet told;
  for (int step = 0; step < 20000; ++step) {
    const Hash128 name{random.Next() % kBlocks, 0};
    const bool stored = cache.insert(name).second;
    if (!stored) cache.erase(name);
    news.Add(std::vector<CacheChange>{{name, stored}});
    if (random.Next() % 200 != 0) continue;
    const CacheChanges changes = news.Take();
    ASSERT_LE(changes.stored.size() + changes.evicted.size(), kBlocks);
    for (const Hash128& n : changes.evicted) ASSERT_EQ(told.erase(n), 1u);
    for (const Hash128& n : changes.stored) ASSERT_TRUE(told.insert(n).second);
    ASSERT_EQ(told, cache);
  }
}

}  // namespace
}  // namespace fathom::worker
