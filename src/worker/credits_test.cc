#include "worker/credits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "common/random.h"

namespace fathom::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(CreditsTest, OneMasterGetsEverything) {
  EXPECT_THAT(GrantCredits(1000, 0, {{.in_flight = 0, .backlog = 0}}), ElementsAre(1000));
  EXPECT_THAT(GrantCredits(1000, 0, {{.in_flight = 300, .backlog = 50}}), ElementsAre(1000));
  EXPECT_THAT(GrantCredits(1000, 0, {}), IsEmpty());
}

TEST(CreditsTest, IdleMastersShareEvenly) {
  EXPECT_THAT(GrantCredits(1000, 0, {{}, {}}), ElementsAre(500, 500));
}

TEST(CreditsTest, BacklogDrawsCreditButAnIdleMasterKeepsSome) {
  // A quarter evenly: 125 each; 750 to who waits.
  EXPECT_THAT(GrantCredits(1000, 0, {{0, 10}, {0, 0}}), ElementsAre(875, 125));
  EXPECT_THAT(GrantCredits(1000, 0, {{0, 300}, {0, 100}}), ElementsAre(125 + 562, 125 + 187));
}

TEST(CreditsTest, WorkWhoseMasterIsGoneIsNotFree) {
  EXPECT_THAT(GrantCredits(1000, 400, {{0, 0}}), ElementsAre(600));
  EXPECT_THAT(GrantCredits(1000, 4000, {{70, 0}}), ElementsAre(70));
}

TEST(CreditsTest, HugeBacklogsDoNotOverflow) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(GrantCredits(1000, 0, {{0, kHuge}, {0, kHuge}}), ElementsAre(500, 500));
}

TEST(CreditsTest, SharesNeverExceedWhatIsFree) {
  SeededRandom random(7);
  for (int round = 0; round < 20000; ++round) {
    std::vector<CreditClaim> claims(1 + random.Next() % 8);
    const auto capacity = static_cast<int64_t>(random.Next() % 100000);
    const auto unowned = static_cast<int64_t>(random.Next() % 20000);
    int64_t used = unowned;
    for (CreditClaim& claim : claims) {
      claim.in_flight = static_cast<int64_t>(random.Next() % 30000);
      // From outside: negative ones too.
      claim.backlog = static_cast<int64_t>(random.Next() % 1000000) - 1000;
      used += claim.in_flight;
    }
    const std::vector<int64_t> credits = GrantCredits(capacity, unowned, claims);
    ASSERT_EQ(credits.size(), claims.size());
    int64_t granted = 0;
    for (size_t i = 0; i < claims.size(); ++i) {
      ASSERT_GE(credits[i], claims[i].in_flight);
      granted += credits[i] - claims[i].in_flight;
    }
    ASSERT_LE(granted, std::max<int64_t>(0, capacity - used));
  }
}

}  // namespace
}  // namespace fathom::worker
