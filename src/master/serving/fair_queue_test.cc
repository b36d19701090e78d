#include "master/serving/fair_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "common/random.h"

namespace fathom::master {
namespace {

TEST(FairQueueTest, OneTenantIsServedInOrder) {
  FairQueue<int> queue;
  for (int i = 0; i < 5; ++i) queue.Push(1, 1, 0, 100 - i, i);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(queue.Pop(), i);
  EXPECT_TRUE(queue.empty());
}

TEST(FairQueueTest, AFloodDoesNotHoldUpAnotherTenant) {
  FairQueue<int> queue;
  for (int i = 0; i < 1000; ++i) queue.Push(/*tenant=*/1, 1, 0, 10, 1);
  queue.Push(/*tenant=*/2, 1, 0, 10, 2);
  int position = 1;
  while (queue.Pop() != 2) ++position;
  EXPECT_LE(position, 2);
}

TEST(FairQueueTest, TenantsShareTokensNotRequests) {
  FairQueue<int> queue;
  for (int i = 0; i < 200; ++i) queue.Push(1, 1, 0, 100, 1);
  for (int i = 0; i < 2000; ++i) queue.Push(2, 1, 0, 10, 2);
  std::map<int, int> tokens;
  for (int i = 0; i < 1100; ++i) {
    const int tenant = queue.Pop();
    tokens[tenant] += tenant == 1 ? 100 : 10;
  }
  EXPECT_NEAR(tokens[1], tokens[2], 200);
}

TEST(FairQueueTest, WeightsShareTokens) {
  FairQueue<int> queue;
  for (int i = 0; i < 1000; ++i) queue.Push(1, /*weight=*/3, 0, 10, 1);
  for (int i = 0; i < 1000; ++i) queue.Push(2, /*weight=*/1, 0, 10, 2);
  int ones = 0;
  for (int i = 0; i < 400; ++i) ones += queue.Pop() == 1 ? 1 : 0;
  EXPECT_NEAR(ones, 300, 2);
}

TEST(FairQueueTest, WhatWasNotUsedIsGivenBack) {
  // Both ask for 1000 tokens; tenant 1 uses 100 of them, tenant 2 all.
  FairQueue<int> queue;
  int served[3] = {};
  for (int tenant : {1, 2}) queue.Push(tenant, 1, 0, 1000, tenant);
  for (int i = 0; i < 1100; ++i) {
    const int tenant = queue.Pop();
    served[tenant] += tenant == 1 ? 100 : 1000;
    if (tenant == 1) queue.Refund(1, 1, 0, 900);
    queue.Push(tenant, 1, 0, 1000, tenant);
  }
  EXPECT_NEAR(served[1], served[2], 2000);
}

TEST(FairQueueTest, WhatComesAgainGoesFirstAndIsFree) {
  FairQueue<int> queue;
  for (int i = 0; i < 10; ++i) queue.Push(1, 1, 0, 10, 1);
  for (int i = 0; i < 10; ++i) queue.Push(2, 1, 0, 10, 2);
  for (int i = 0; i < 5; ++i) queue.PushAgain(0, 100 + i);
  queue.PushAgain(1, 200);  // of a less urgent class
  for (int i = 0; i < 5; ++i) EXPECT_EQ(queue.Pop(), 100 + i);
  int ones = 0;
  for (int i = 0; i < 10; ++i) ones += queue.Pop() == 1 ? 1 : 0;
  EXPECT_EQ(ones, 5);
}

TEST(FairQueueTest, MoreUrgentLeavesFirst) {
  FairQueue<int> queue;
  queue.Push(1, 1, 5, 1, 5);
  queue.Push(1, 1, 0, 1000, 0);
  queue.Push(2, 1, 3, 1, 3);
  EXPECT_EQ(queue.Pop(), 0);
  EXPECT_EQ(queue.Pop(), 3);
  EXPECT_EQ(queue.Pop(), 5);
}

TEST(FairQueueTest, IdleTimeIsNotSavedUp) {
  FairQueue<int> queue;
  for (int i = 0; i < 100; ++i) queue.Push(1, 1, 0, 10, 1);
  for (int i = 0; i < 100; ++i) queue.Pop();
  // Tenant 2 comes after a long time of tenant 1 alone: it may not run ahead for as long.
  for (int i = 0; i < 10; ++i) {
    queue.Push(1, 1, 0, 10, 1);
    queue.Push(2, 1, 0, 10, 2);
  }
  int twos = 0;
  for (int i = 0; i < 10; ++i) twos += queue.Pop() == 2 ? 1 : 0;
  EXPECT_GE(twos, 4);
  EXPECT_LE(twos, 6);
}

TEST(FairQueueTest, NothingIsLostOrLeavesTwice) {
  SeededRandom random(3);
  FairQueue<uint64_t> queue;
  std::map<FairQueue<uint64_t>::Handle, uint64_t> inside;
  std::set<uint64_t> left;
  uint64_t next = 0;
  for (int step = 0; step < 20000; ++step) {
    const uint64_t dice = random.Next() % 10;
    if (dice < 5) {
      const auto handle =
          queue.Push(random.Next() % 3000, 1, static_cast<int32_t>(random.Next() % 3),
                     static_cast<int64_t>(random.Next() % 100), next);
      inside[handle] = next++;
    } else if (dice < 8 && !queue.empty()) {
      const uint64_t front = queue.Front();
      EXPECT_EQ(queue.Pop(), front);
      EXPECT_TRUE(left.insert(front).second);
    } else if (!inside.empty()) {
      const auto entry = inside.begin();
      const auto removed = queue.Remove(entry->first);
      EXPECT_EQ(removed.has_value(), !left.contains(entry->second));
      left.insert(entry->second);
      inside.erase(entry);
    }
  }
  while (!queue.empty()) EXPECT_TRUE(left.insert(queue.Pop()).second);
  EXPECT_EQ(left.size(), next);
}

}  // namespace
}  // namespace fathom::master
