// What a worker tells of its prefix cache, and what a master makes of it, over a link that may lose
// messages.

#include "worker/cache_teller.h"

#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <string>

#include "common/random.h"
#include "master/fleet/cache_follower.h"

namespace fathom::worker {
namespace {

using master::CacheFollower;
using master::CacheUpdate;

std::vector<Hash128> Names(uint64_t first, uint64_t count) {
  std::vector<Hash128> names;
  for (uint64_t i = 0; i < count; ++i) names.push_back({first + i, 1});
  return names;
}

// What an index would hold.
class Held {
 public:
  void Apply(const CacheUpdate& update) {
    if (update.resync_begins) stale_ = names_;
    for (const Hash128& name : update.evicted) names_.erase(name);
    for (const Hash128& name : update.stored) {
      names_.insert(name);
      stale_.erase(name);
    }
    if (update.resync_ends) {
      for (const Hash128& name : stale_) names_.erase(name);
    }
  }
  const BlockNameSet& names() const { return names_; }

 private:
  BlockNameSet names_;
  BlockNameSet stale_;
};

TEST(CacheTellerTest, AMasterThatHasNotAskedIsToldNothing) {
  CacheTeller teller;
  CacheTeller::Listener listener;
  const CacheChanges changes{.stored = Names(0, 3)};
  teller.Apply("m", changes);
  EXPECT_TRUE(CacheTeller::Tell(changes, &listener).empty());
  EXPECT_EQ(teller.Page(0, &listener)->kv_events().stored_size(), 3);
  EXPECT_EQ(CacheTeller::Tell(changes, &listener).size(), 1u);
}

TEST(CacheTellerTest, WhatSeveralModelsHoldIsNewsOnce) {
  CacheTeller teller;
  EXPECT_EQ(teller.Apply("a", {.stored = Names(0, 3)}).stored.size(), 3u);
  const CacheChanges second = teller.Apply("b", {.stored = Names(2, 3)});
  EXPECT_EQ(second.stored, Names(3, 2));
  CacheTeller::Listener listener;
  const auto page = teller.Page(0, &listener);
  std::set<std::string> told(page->kv_events().stored().begin(), page->kv_events().stored().end());
  EXPECT_EQ(told.size(), 5u);
  EXPECT_TRUE(teller.Apply("a", {.evicted = Names(2, 1)}).evicted.empty());
  EXPECT_EQ(teller.Apply("b", {.evicted = Names(2, 1)}).evicted, Names(2, 1));
  EXPECT_EQ(teller.Forget("b").evicted.size(), 2u);
  EXPECT_TRUE(teller.Forget("b").evicted.empty());
  EXPECT_EQ(teller.size(), 2u);
}

TEST(CacheTellerTest, ManyNamesTravelInManyMessages) {
  CacheTeller teller;
  CacheTeller::Listener listener{.asked = true};
  const CacheChanges changes{.stored = Names(0, 2 * CacheTeller::kNamesMax + 1),
                             .evicted = Names(1 << 20, 5)};
  const auto messages = CacheTeller::Tell(changes, &listener);
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].kv_events().evicted_size(), 5);
  EXPECT_EQ(messages[2].kv_events().stored_size(), 1);
  EXPECT_EQ(messages[2].kv_events().sequence(), 3u);
  EXPECT_LE(messages[0].ByteSizeLong(), size_t{256} << 10);

  teller.Apply("m", changes);
  EXPECT_FALSE(teller.Page(0, &listener)->kv_events().last_page());
  EXPECT_FALSE(teller.Page(1, &listener)->kv_events().last_page());
  const auto last = teller.Page(2, &listener);
  EXPECT_TRUE(last->kv_events().last_page());
  EXPECT_EQ(last->kv_events().stored_size(), 1);
  EXPECT_FALSE(teller.Page(3, &listener).has_value());
}

TEST(CacheFollowerTest, AsksForTheWholeFirstAndAfterAGap) {
  CacheFollower follower;
  EXPECT_EQ(follower.TakeRequest(), 0u);
  EXPECT_EQ(follower.TakeRequest(), std::nullopt);
  v1::KvEvents events;
  events.set_sequence(1);
  events.set_resync_page(0);
  auto update = follower.Take(events);
  ASSERT_TRUE(update.ok());
  EXPECT_TRUE(update->resync_begins);
  EXPECT_FALSE(update->resync_ends);
  EXPECT_EQ(follower.TakeRequest(), 1u);
  events.set_sequence(2);
  events.set_resync_page(1);
  events.set_last_page(true);
  EXPECT_TRUE(follower.Take(events)->resync_ends);
  EXPECT_EQ(follower.TakeRequest(), std::nullopt);

  v1::KvEvents news;
  news.set_sequence(3);
  ASSERT_TRUE(follower.Take(news).ok());
  EXPECT_EQ(follower.TakeRequest(), std::nullopt);
  news.set_sequence(5);
  ASSERT_TRUE(follower.Take(news).ok());
  EXPECT_EQ(follower.TakeRequest(), 0u);
}

TEST(CacheFollowerTest, WhatIsNoNewsOfACacheBreaksTheLink) {
  const auto refused = [](auto change) {
    v1::KvEvents events;
    events.set_sequence(1);
    change(events);
    return absl::IsInvalidArgument(CacheFollower().Take(events).status());
  };
  EXPECT_TRUE(refused([](v1::KvEvents& e) { e.add_stored("short"); }));
  EXPECT_TRUE(refused([](v1::KvEvents& e) { e.add_evicted(std::string(17, 'x')); }));
  EXPECT_TRUE(refused([](v1::KvEvents& e) {
    for (int i = 0; i <= CacheFollower::kNamesMax; ++i) e.add_stored(std::string(16, 'x'));
  }));
  // A resync of ever more pages.
  CacheFollower follower;
  v1::KvEvents events;
  absl::Status status;
  for (uint64_t page = 0; status.ok() && page < 2 * CacheFollower::kPagesMax; ++page) {
    events.set_sequence(page + 1);
    events.set_resync_page(page);
    status = follower.Take(events).status();
  }
  EXPECT_TRUE(absl::IsInvalidArgument(status));
}

class CacheTaleTest : public testing::TestWithParam<int> {};

// Changes, losses and late answers in any order: once the link loses nothing more and one more
// change has come, the master has what the worker has.
TEST_P(CacheTaleTest, TheMasterEndsWithWhatTheWorkerHas) {
  SeededRandom random(GetParam());
  CacheTeller teller;
  CacheTeller::Listener listener;
  CacheFollower follower;
  Held held;
  BlockNameSet cache;
  std::deque<v1::WorkerBulk> up;
  std::deque<uint64_t> down;
  bool lossy = true;
  const auto send = [&](v1::WorkerBulk message) {
    if (!lossy || random.Next() % 10 != 0) up.push_back(std::move(message));
  };
  const auto change = [&](uint64_t count) {
    CacheChanges changes;
    for (uint64_t i = 0; i < count; ++i) {
      const Hash128 name{random.Next() % 30000, 0};
      // Each name once: changes are net.
      if (std::find(changes.stored.begin(), changes.stored.end(), name) != changes.stored.end() ||
          std::find(changes.evicted.begin(), changes.evicted.end(), name) !=
              changes.evicted.end()) {
        continue;
      }
      if (cache.insert(name).second) {
        changes.stored.push_back(name);
      } else {
        cache.erase(name);
        changes.evicted.push_back(name);
      }
    }
    teller.Apply("m", changes);
    for (auto& message : CacheTeller::Tell(changes, &listener)) send(std::move(message));
  };
  const auto ask = [&] {
    if (const auto page = follower.TakeRequest()) down.push_back(*page);
  };
  const auto deliver_up = [&] {
    const auto update = follower.Take(up.front().kv_events());
    up.pop_front();
    ASSERT_TRUE(update.ok()) << update.status();
    held.Apply(*update);
    ask();
  };
  const auto deliver_down = [&] {
    if (auto page = teller.Page(down.front(), &listener)) send(*std::move(page));
    down.pop_front();
  };
  for (uint64_t i = 0; i < 20000; ++i) {  // more than two pages
    cache.insert({i, 0});
  }
  teller.Apply("m", {.stored = {cache.begin(), cache.end()}});
  ask();
  deliver_down();
  for (int step = 0; step < 400; ++step) {
    const uint64_t what = random.Next() % 3;
    if (what == 0) change(random.Next() % 40);
    if (what == 1 && !up.empty()) deliver_up();
    if (what == 2 && !down.empty()) deliver_down();
  }
  lossy = false;
  change(1);
  while (!up.empty() || !down.empty()) {
    if (!up.empty()) deliver_up();
    if (!down.empty()) deliver_down();
  }
  EXPECT_EQ(held.names(), cache);
}

INSTANTIATE_TEST_SUITE_P(Seeds, CacheTaleTest, testing::Range(1, 21));

}  // namespace
}  // namespace fathom::worker
