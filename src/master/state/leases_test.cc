#include "master/state/leases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "common/clock.h"
#include "common/random.h"
#include "master/state/leadership.h"
#include "master/state/state_testing.h"

namespace fathom::master {
namespace {

TEST(LeaseTermTest, EndsAMarginBeforeTheLeaseMayEnd) {
  LeaseTerm term(absl::Nanoseconds(100), absl::Nanoseconds(30));
  EXPECT_FALSE(term.Held(0));
  term.Renewed(1000, 5);
  EXPECT_TRUE(term.Held(1069));
  EXPECT_FALSE(term.Held(1070));
  term.Renewed(1060, 5);
  EXPECT_TRUE(term.Held(1129));
  term.Lost();
  EXPECT_FALSE(term.Held(1061));
  EXPECT_EQ(term.epoch(), 5U);
}

class LeasesTest : public StateTest {
 protected:
  static LeaseView Take(SqlSession& session, const std::string& holder, absl::Duration ttl) {
    const auto lease = TakeLease(session, "leader", holder, ttl);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.value_or(LeaseView{});
  }
};

TEST_F(LeasesTest, OneHoldsItUntilItEnds) {
  auto session = ConnectMigrated();
  EXPECT_EQ(Take(*session, "a", absl::Seconds(2)).epoch, 1U);
  const LeaseView second = Take(*session, "b", absl::Seconds(10));
  EXPECT_EQ(second.holder, "a");
  EXPECT_EQ(second.epoch, 1U);
  absl::SleepFor(absl::Seconds(2.1));
  const LeaseView third = Take(*session, "b", absl::Seconds(10));
  EXPECT_EQ(third.holder, "b");
  EXPECT_EQ(third.epoch, 2U);
}

TEST_F(LeasesTest, TheEpochGrowsWithTheHolderAlone) {
  auto session = ConnectMigrated();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Take(*session, "a", absl::Seconds(10)).epoch, 1U);
  ASSERT_TRUE(ReleaseLease(*session, "leader", "b").ok());  // not its own
  EXPECT_EQ(Take(*session, "b", absl::Seconds(10)).holder, "a");
  ASSERT_TRUE(ReleaseLease(*session, "leader", "a").ok());
  EXPECT_EQ(Take(*session, "b", absl::Seconds(10)).epoch, 2U);
  ASSERT_TRUE(ReleaseLease(*session, "leader", "b").ok());
  EXPECT_EQ(Take(*session, "a", absl::Seconds(10)).epoch, 3U);
}

struct Interval {
  int64_t from_ns, to_ns;
  uint64_t epoch;
  int who;
};

// Holders that stop for longer than their lease, as processes do that are not scheduled: what each
// believes of itself never overlaps with what another believes.
TEST_F(LeasesTest, BeliefsNeverOverlap) {
  const absl::Duration ttl = absl::Milliseconds(120);
  const absl::Duration margin = absl::Milliseconds(30);
  ConnectMigrated();
  std::mutex mutex;
  std::vector<Interval> intervals;
  int holders = 0;  // one after the other
  std::atomic<bool> end{false};
  const Clock& clock = *Clock::Real();
  std::vector<std::thread> threads;
  for (int who = 0; who < 4; ++who) {
    threads.emplace_back([&, who] {
      SeededRandom random(who + 1);
      auto session = Connect();
      LeaseTerm term(ttl, margin);
      const std::string holder = std::string(1, static_cast<char>('a' + who));
      while (!end) {
        const int64_t sent_ns = clock.MonotonicNs();
        const auto lease = TakeLease(*session, "leader", holder, ttl);
        if (lease.ok() && lease->holder == holder) {
          const int64_t heard_ns = clock.MonotonicNs();
          term.Renewed(sent_ns, lease->epoch);
          const std::lock_guard lock(mutex);
          if (*term.until_ns() > heard_ns) {
            holders += intervals.empty() || intervals.back().who != who ? 1 : 0;
            intervals.push_back({heard_ns, *term.until_ns(), lease->epoch, who});
          }
        }
        const double ms = random.NextUnit() < 0.15 ? 180 : 20 * random.NextUnit();
        absl::SleepFor(absl::Milliseconds(ms));
      }
    });
  }
  const auto tried_enough = [&] {
    const std::lock_guard lock(mutex);
    return holders > 10;
  };
  // A busy machine takes longer.
  for (int i = 0; i < 30 && (i < 3 || !tried_enough()); ++i) absl::SleepFor(absl::Seconds(1));
  end = true;
  for (auto& thread : threads) thread.join();

  std::sort(intervals.begin(), intervals.end(),
            [](const Interval& a, const Interval& b) { return a.from_ns < b.from_ns; });
  int changes = 0;
  for (size_t i = 1; i < intervals.size(); ++i) {
    const Interval& before = intervals[i - 1];
    const Interval& after = intervals[i];
    if (before.who == after.who) {
      // One between them may have heard too late that it held it.
      EXPECT_LE(before.epoch, after.epoch);
      continue;
    }
    ++changes;
    EXPECT_LE(before.to_ns, after.from_ns) << "two held it at once";
    EXPECT_LT(before.epoch, after.epoch);
  }
  EXPECT_GT(changes, 3) << "the test did not try what it is for";
}

class LeadershipTest : public LeasesTest {
 protected:
  static LeadershipOptions Fast(const std::string& holder) {
    return {.holder = holder,
            .ttl = absl::Milliseconds(600),
            .margin = absl::Milliseconds(150),
            .period = absl::Milliseconds(80)};
  }
  template <typename Condition>
  static bool Becomes(Condition condition, absl::Duration limit = absl::Seconds(10)) {
    const absl::Time end = absl::Now() + limit;
    while (absl::Now() < end) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }
};

TEST_F(LeadershipTest, PassesOnWhenTheLeaderGoes) {
  Database database(Options());
  LeadershipOptions slow = Fast("a");
  slow.ttl = absl::Seconds(60);
  auto first = std::make_unique<Leadership>(slow, &database);
  ASSERT_TRUE(Becomes([&] { return first->is_leader(); }));
  Leadership second(Fast("b"), &database);
  ASSERT_TRUE(Becomes([&] { return second.epoch() == 1; }));
  EXPECT_FALSE(second.is_leader());
  first = nullptr;  // gives it back
  ASSERT_TRUE(Becomes([&] { return second.is_leader(); }));
  EXPECT_EQ(second.epoch(), 2U);
}

// The lease is taken on one connection while it is given back on another.
TEST_F(LeadershipTest, WhatItTakesWhileItResignsIsGivenBack) {
  Database database(Options());
  LeadershipOptions slow = Fast("a");
  slow.ttl = absl::Seconds(60);
  slow.period = absl::Milliseconds(20);
  Leadership leadership(slow, &database);
  ASSERT_TRUE(Becomes([&] { return leadership.is_leader(); }));
  auto session = Connect();
  {
    auto transaction = SqlTransaction::Begin(*session);
    ASSERT_TRUE(transaction.ok()) << transaction.status();
    ASSERT_TRUE(session->Execute("UPDATE leases SET epoch = epoch").ok());
    // It asks meanwhile, and waits. Nothing tells; if it has not yet, nothing is tried here.
    absl::SleepFor(absl::Milliseconds(200));
    std::thread resigns([&] { leadership.Resign(); });
    EXPECT_TRUE(Becomes([&] { return !leadership.is_leader(); }));
    ASSERT_TRUE(transaction->Commit().ok());
    resigns.join();
  }
  EXPECT_TRUE(Becomes([&] { return Take(*session, "b", absl::Seconds(60)).holder == "b"; }));
  EXPECT_FALSE(leadership.is_leader());
}

TEST_F(LeadershipTest, ALeaderWithoutADatabaseLeadsNoLongerThanItsLease) {
  DatabaseOptions options = Options();
  Database database(options);
  FakeClock clock;
  LeadershipOptions fast = Fast("a");
  fast.clock = &clock;
  fast.period = absl::Milliseconds(20);
  Leadership leadership(fast, &database);
  ASSERT_TRUE(Becomes([&] { return leadership.is_leader(); }));
  // Another has it from now on, and the leader hears nothing: every answer is later than its lease.
  auto session = Connect();
  ASSERT_TRUE(session
                  ->Execute("UPDATE leases SET holder = 'b', epoch = epoch + 1, "
                            "expires_at = {now} + 60000")
                  .ok());
  clock.Advance(absl::Milliseconds(450));
  EXPECT_FALSE(leadership.is_leader());
  ASSERT_TRUE(Becomes([&] { return leadership.epoch() == 2; }));
  EXPECT_FALSE(leadership.is_leader());
}

}  // namespace
}  // namespace fathom::master
