#include "master/serving/admission.h"

#include <gtest/gtest.h>

#include <vector>

#include "master/serving/failure.h"

namespace fathom::master {
namespace {

TEST(AdmissionTest, TicketsCountAndGiveBack) {
  FakeClock clock;
  Admission admission({.requests = 2, .cost = 100}, &clock);
  {
    auto a = admission.Enter("t", 0);
    auto b = admission.Enter("t", 0);
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_EQ(admission.Enter("t", 0).status().code(), absl::StatusCode::kResourceExhausted);
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
  auto big = admission.Enter("t", 0);
  auto small = admission.Enter("t", 0);
  EXPECT_TRUE(admission.Settle(*big, 500).ok());
  EXPECT_EQ(admission.Settle(*small, 1).code(), absl::StatusCode::kResourceExhausted);
  big->Reset();
  EXPECT_TRUE(admission.Settle(*small, 1).ok());
}

TEST(AdmissionTest, AFloodLeavesRoomForOthers) {
  FakeClock clock;
  Admission admission({.requests = 90, .cost = 9000}, &clock);
  std::vector<Admission::Ticket> flood;
  while (true) {
    auto ticket = admission.Enter("flood", 0);
    if (!ticket.ok()) break;
    flood.push_back(*std::move(ticket));
  }
  EXPECT_EQ(flood.size(), 80u);
  std::vector<Admission::Ticket> others;
  for (int i = 0; i < 5; ++i) {
    auto ticket = admission.Enter("other", 0);
    ASSERT_TRUE(ticket.ok()) << i;
    others.push_back(*std::move(ticket));
  }
  EXPECT_FALSE(admission.Enter("flood", 0).ok());
}

TEST(AdmissionTest, AFloodOfTokensLeavesRoomToo) {
  FakeClock clock;
  Admission admission({.requests = 10'000, .cost = 9000}, &clock);
  std::vector<Admission::Ticket> flood;
  while (true) {
    auto ticket = admission.Enter("flood", 100);
    if (!ticket.ok() || !admission.Settle(*ticket, 100).ok()) break;
    flood.push_back(*std::move(ticket));
  }
  EXPECT_NEAR(static_cast<double>(admission.cost()), 8000, 100);
  auto other = admission.Enter("other", 100);
  ASSERT_TRUE(other.ok());
  EXPECT_TRUE(admission.Settle(*other, 500).ok());
}

TEST(AdmissionTest, WhatMustCostTooMuchIsRefusedBeforeItIsTokenised) {
  FakeClock clock;
  Admission admission({.requests = 10, .cost = 100}, &clock);
  auto first = admission.Enter("t", 0);
  ASSERT_TRUE(admission.Settle(*first, 60).ok());
  EXPECT_EQ(admission.Enter("t", 50).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(admission.requests(), 1);
  EXPECT_TRUE(admission.Enter("t", 30).ok());
}

TEST(AdmissionTest, RetryAfterFollowsTheDrainRate) {
  FakeClock clock;
  Admission admission({.requests = 1000, .cost = 1000}, &clock);
  // Nothing has drained yet: as long as it has been waited for, within bounds.
  auto first = admission.Enter("t", 0);
  ASSERT_TRUE(admission.Settle(*first, 1000).ok());
  EXPECT_EQ(FailureRetryAfter(admission.Enter("t", 500).status()), absl::Seconds(1));
  clock.Advance(absl::Seconds(30));
  EXPECT_EQ(FailureRetryAfter(admission.Enter("t", 500).status()), absl::Seconds(30));
  clock.Advance(absl::Seconds(1000));
  EXPECT_EQ(FailureRetryAfter(admission.Enter("t", 500).status()), absl::Seconds(60));
  first->Reset();
  // 100 tokens a second for a long time, and then nothing that could drain for a longer one.
  for (int i = 0; i < 100; ++i) {
    auto ticket = admission.Enter("t", 0);
    ASSERT_TRUE(admission.Settle(*ticket, 100).ok());
    clock.Advance(absl::Seconds(1));
  }
  clock.Advance(absl::Seconds(1000));
  auto third = admission.Enter("t", 0);
  ASSERT_TRUE(admission.Settle(*third, 1000).ok());
  const auto wait = FailureRetryAfter(admission.Enter("t", 500).status());
  ASSERT_TRUE(wait.has_value());
  EXPECT_GE(*wait, absl::Seconds(4));
  EXPECT_LE(*wait, absl::Seconds(6));
}

TEST(AdmissionTest, AYoungServerKnowsItsRate) {
  FakeClock clock;
  Admission admission({.requests = 10, .cost = 1000}, &clock);
  for (int i = 0; i < 10; ++i) {
    auto ticket = admission.Enter("t", 0);
    ASSERT_TRUE(admission.Settle(*ticket, 1000).ok());
    clock.Advance(absl::Milliseconds(100));
  }
  auto full = admission.Enter("t", 0);
  ASSERT_TRUE(admission.Settle(*full, 1000).ok());
  EXPECT_EQ(FailureRetryAfter(admission.Enter("t", 500).status()), absl::Seconds(1))
      << "10,000 tokens a second";
}

}  // namespace
}  // namespace fathom::master
