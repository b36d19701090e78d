#include "master/serving/admission.h"

#include <gtest/gtest.h>

#include "master/serving/failure.h"

namespace fathom::master {
namespace {

TEST(AdmissionTest, TicketsCountAndGiveBack) {
  FakeClock clock;
  Admission admission({.requests = 2, .cost = 100}, &clock);
  {
    auto a = admission.Enter();
    auto b = admission.Enter();
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_EQ(admission.Enter().status().code(), absl::StatusCode::kResourceExhausted);
    ASSERT_TRUE(admission.Settle(*a, 60).ok());
    EXPECT_EQ(admission.cost(), 60);
    const Admission::Ticket moved = *std::move(a);
    EXPECT_EQ(admission.requests(), 2);
  }
  EXPECT_EQ(admission.requests(), 0);
  EXPECT_EQ(admission.cost(), 0);
}

TEST(AdmissionTest, CostIsBoundedButOneAloneIsLetIn) {
  FakeClock clock;
  Admission admission({.requests = 10, .cost = 100}, &clock);
  auto big = admission.Enter();
  auto small = admission.Enter();
  EXPECT_TRUE(admission.Settle(*big, 500).ok());
  EXPECT_EQ(admission.Settle(*small, 1).code(), absl::StatusCode::kResourceExhausted);
  big->Reset();
  EXPECT_TRUE(admission.Settle(*small, 1).ok());
}

TEST(AdmissionTest, RetryAfterFollowsTheDrainRate) {
  FakeClock clock;
  Admission admission({.requests = 1000, .cost = 1000}, &clock);
  // Nothing has drained yet: the longest wait.
  auto first = admission.Enter();
  ASSERT_TRUE(admission.Settle(*first, 1000).ok());
  auto second = admission.Enter();
  EXPECT_EQ(FailureRetryAfter(admission.Settle(*second, 500)), absl::Seconds(60));
  first->Reset();
  // 100 tokens a second for a long time.
  for (int i = 0; i < 100; ++i) {
    clock.Advance(absl::Seconds(1));
    auto ticket = admission.Enter();
    ASSERT_TRUE(admission.Settle(*ticket, 100).ok());
  }
  auto third = admission.Enter();
  ASSERT_TRUE(admission.Settle(*third, 1000).ok());
  auto fourth = admission.Enter();
  const auto wait = FailureRetryAfter(admission.Settle(*fourth, 500));
  ASSERT_TRUE(wait.has_value());
  EXPECT_GE(*wait, absl::Seconds(4));
  EXPECT_LE(*wait, absl::Seconds(6));
}

}  // namespace
}  // namespace fathom::master
