#include "worker/engine/fair_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "worker/engine/sequence.h"

namespace fathom::worker {
namespace {

class FairQueueTest : public testing::Test {
 protected:
  RequestState* New(uint64_t tenant, int32_t priority = 0) {
    states_.push_back(std::make_unique<RequestState>());
    states_.back()->request.tenant_hash = tenant;
    states_.back()->request.priority = priority;
    return states_.back().get();
  }
  RequestState* Push(uint64_t tenant, int64_t cost, int32_t priority = 0, int32_t weight = 1) {
    RequestState* r = New(tenant, priority);
    queue_.Push(r, priority, tenant, cost, weight);
    return r;
  }
  FairQueue queue_;
  std::vector<std::unique_ptr<RequestState>> states_;
};

TEST_F(FairQueueTest, OneTenantIsFirstInFirstOut) {
  RequestState* a = Push(1, 10);
  RequestState* b = Push(1, 1);
  EXPECT_EQ(queue_.Pop(), a);
  EXPECT_EQ(queue_.Pop(), b);
  EXPECT_EQ(queue_.Pop(), nullptr);
}

TEST_F(FairQueueTest, AFloodDelaysAnotherTenantByOneRequestAtMost) {
  for (int i = 0; i < 1000; ++i) Push(1, 100);
  EXPECT_EQ(queue_.Pop()->request.tenant_hash, 1U);
  RequestState* other = Push(2, 100);
  EXPECT_EQ(queue_.Pop(), other);
}

TEST_F(FairQueueTest, TenantsShareByWeight) {
  for (int i = 0; i < 300; ++i) Push(1, 100, 0, 3);
  for (int i = 0; i < 300; ++i) Push(2, 100, 0, 1);
  int served[3] = {};
  for (int i = 0; i < 200; ++i) ++served[queue_.Pop()->request.tenant_hash];
  EXPECT_NEAR(served[1], 150, 2);
  EXPECT_NEAR(served[2], 50, 2);
}

TEST_F(FairQueueTest, TenantsShareByCost) {
  for (int i = 0; i < 100; ++i) Push(1, 300);
  for (int i = 0; i < 300; ++i) Push(2, 100);
  int64_t served[3] = {};
  for (int i = 0; i < 120; ++i) {
    const uint64_t tenant = queue_.Pop()->request.tenant_hash;
    served[tenant] += tenant == 1 ? 300 : 100;
  }
  EXPECT_NEAR(static_cast<double>(served[1]), static_cast<double>(served[2]), 300);
}

TEST_F(FairQueueTest, PriorityComesFirst) {
  Push(1, 1, 5);
  RequestState* urgent = Push(2, 1000, 0);
  EXPECT_EQ(queue_.TopPriority(), 0);
  EXPECT_EQ(queue_.Pop(), urgent);
  EXPECT_EQ(queue_.TopPriority(), 5);
}

TEST_F(FairQueueTest, AnErasedRequestIsGoneAndErasingTwiceIsFine) {
  RequestState* a = Push(1, 10);
  RequestState* b = Push(2, 10);
  queue_.Erase(a);
  queue_.Erase(a);
  EXPECT_EQ(queue_.size(), 1U);
  EXPECT_EQ(queue_.Pop(), b);
}

TEST_F(FairQueueTest, EveryoneComesOutOnce) {
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    Push(random() % 5, 1 + static_cast<int64_t>(random() % 1000),
         static_cast<int32_t>(random() % 3));
  }
  std::set<RequestState*> seen;
  while (RequestState* r = queue_.Pop()) EXPECT_TRUE(seen.insert(r).second);
  EXPECT_EQ(seen.size(), 2000U);
}

}  // namespace
}  // namespace fathom::worker
