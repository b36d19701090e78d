#include "master/state/quotas.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>

#include "absl/time/clock.h"
#include "common/clock.h"
#include "master/state/quota_rows.h"
#include "master/state/state_testing.h"

namespace fathom::master {
namespace {

class QuotasTest : public StateTest {
 protected:
  static int Three() { return 3; }
  static double Level(SqlSession& session, const std::string& kind) {
    const auto rows =
        session.Query("SELECT level FROM quotas WHERE kind = :kind", 1, {{"kind", kind}});
    EXPECT_TRUE(rows.ok()) << rows.status();
    return rows.ok() && !rows->empty() ? rows->at(0).real(0) : -1e9;
  }
};

TEST_F(QuotasTest, TheBucketFillsByTheDatabasesClockAndNoHigher) {
  auto session = ConnectMigrated();
  const QuotaRate rate{.per_second = 100, .burst = 50};
  const auto exchange = [&](QuotaExchange what) {
    const auto answer = ExchangeQuota(*session, "k", "tokens", rate, what);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(QuotaAnswer{});
  };
  QuotaAnswer answer = exchange({.want = 30});
  EXPECT_DOUBLE_EQ(answer.taken, 30);
  EXPECT_NEAR(answer.level, 20, 3);
  EXPECT_LE(exchange({.debt = 500}).level, -400);
  answer = exchange({.want = 10});
  EXPECT_DOUBLE_EQ(answer.taken, 0);
  answer = exchange({.give = 1000, .want = 5});
  EXPECT_DOUBLE_EQ(answer.taken, 5);
  EXPECT_NEAR(answer.level, 45, 3);
  const absl::Time start = absl::Now();
  const double level = exchange({.debt = 50}).level;
  absl::SleepFor(absl::Milliseconds(200));
  answer = exchange({.want = 100});
  EXPECT_GE(answer.taken, std::max(0.0, level + 20 - 1));
  EXPECT_LE(answer.taken,
            std::min(50.0, level + 100 * absl::ToDoubleSeconds(absl::Now() - start) + 1));
}

TEST_F(QuotasTest, TellsWhichQuotaIsUsedUpAndWhenToComeBack) {
  Database database(Options());
  Quotas quotas(&database, [] { return 1; });
  const QuotaLimits limits{.requests_per_minute = 60};
  EXPECT_FALSE(quotas.Enter("k", {}, 1'000'000).first) << "no quota, no refusal";
  EXPECT_FALSE(quotas.Enter("k", limits, 0).first);
  EXPECT_FALSE(quotas.Enter("k", limits, 0).first);
  const auto refusal = quotas.Enter("k", limits, 0).first;
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->kind, QuotaKind::kRequests);
  EXPECT_EQ(refusal->limit, 60);
  EXPECT_GT(refusal->retry_after, absl::Milliseconds(100));
  EXPECT_LT(refusal->retry_after, absl::Seconds(2));
  EXPECT_FALSE(quotas.Enter("another", limits, 0).first) << "each key has its own";
  const auto view = quotas.View("k", limits, QuotaKind::kRequests);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->limit, 60);
  EXPECT_EQ(view->remaining, 0);
  EXPECT_FALSE(quotas.View("k", limits, QuotaKind::kTokens).has_value());
}

TEST_F(QuotasTest, TokensThatWereNotUsedGoBack) {
  Database database(Options());
  FakeClock clock;  // nothing is settled before it moves
  Quotas quotas(
      &database, [] { return 1; }, &clock);
  const QuotaLimits limits{.tokens_per_minute = 6000};
  {
    auto [refusal, charge] = quotas.Enter("k", limits, 500);
    ASSERT_FALSE(refusal.has_value());
    charge.Settle(5000);
    EXPECT_TRUE(quotas.Enter("k", limits, 1).first.has_value());
    QuotaCharge moved = std::move(charge);
    moved.End(20);
  }
  EXPECT_FALSE(quotas.Enter("k", limits, 1).first.has_value());
  { auto dropped = quotas.Enter("k", limits, 100'000); }
  EXPECT_FALSE(quotas.Enter("k", limits, 1).first.has_value());
  // So much was asked for that all the bucket has is leased; a new row holds all of it at first.
  auto session = ConnectMigrated();
  const auto becomes = [&](auto condition) {
    for (int i = 0; i < 1000; ++i) {
      if (condition(Level(*session, "tokens"))) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  };
  clock.Advance(absl::Seconds(1));
  ASSERT_TRUE(becomes([](double level) { return level > -1e9 && level < 150; }));
  // What is left ends in the database, all of it used or not.
  EXPECT_TRUE(becomes([&](double level) {
    clock.Advance(absl::Milliseconds(300));
    return level > 150;
  }));
}

TEST_F(QuotasTest, AnAnswerThatComesLateCounts) {
  DatabaseOptions options = Options();
  options.threads = 1;
  Database database(options);
  FakeClock clock;
  Quotas quotas(
      &database, [] { return 2; }, &clock);
  const QuotaLimits limits{.requests_per_minute = 600};  // ten a second, twenty at once
  std::promise<void> release;
  database.Post(
      absl::Minutes(1),
      [held = release.get_future().share()](SqlSession&) {
        held.wait();
        return absl::OkStatus();
      },
      [](const absl::Status&) {});
  const auto admitted = [&] {
    int count = 0;
    while (!quotas.Enter("k", limits, 0).first) ++count;
    return count;
  };
  quotas.Tick();  // hears how many masters there are
  EXPECT_EQ(admitted(), 10) << "its part of what the bucket holds at most";
  clock.Advance(absl::Milliseconds(100));
  quotas.Tick();
  absl::SleepFor(absl::Milliseconds(600));  // longer than anybody waits for it
  EXPECT_EQ(admitted(), 0);
  clock.Advance(absl::Milliseconds(600));
  quotas.Tick();
  clock.Advance(absl::Milliseconds(300));
  EXPECT_GT(admitted(), 0) << "it goes on at the rate that it had";
  release.set_value();
  auto session = ConnectMigrated();
  double level = -1e9;
  for (int i = 0; i < 1000 && level == -1e9; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
    level = Level(*session, "requests");
  }
  EXPECT_LE(level, 10) << "it has paid, though nobody asked again";
  EXPECT_GT(level, -1e9);
}

// Three masters, one key, offered far more than it may have, on the real database in real time.
TEST_F(QuotasTest, ThreeMastersTogetherKeepAKeyToItsQuota) {
  std::vector<std::unique_ptr<Database>> databases;
  std::vector<std::unique_ptr<Quotas>> masters;
  for (int i = 0; i < 3; ++i) {
    databases.push_back(std::make_unique<Database>(Options()));
    masters.push_back(std::make_unique<Quotas>(databases.back().get(), Three));
  }
  const QuotaLimits limits{.requests_per_minute = 12'000};
  std::atomic<int> served{0};
  std::atomic<bool> counting{false};
  std::atomic<bool> end{false};
  std::vector<std::thread> clients;
  for (const auto& quotas : masters) {
    clients.emplace_back([&] {
      while (!end) {
        if (!quotas->Enter("k", limits, 0).first && counting) ++served;
        absl::SleepFor(absl::Milliseconds(1));
      }
    });
  }
  absl::SleepFor(absl::Seconds(1.5));
  counting = true;
  const absl::Time start = absl::Now();
  absl::SleepFor(absl::Seconds(5));
  counting = false;
  const double quota = 200 * absl::ToDoubleSeconds(absl::Now() - start);
  end = true;
  for (auto& client : clients) client.join();
  RecordProperty("served_percent", static_cast<int>(100 * served / quota));
  EXPECT_LE(served, quota * 1.05);
  EXPECT_GE(served, quota * 0.85);
}

TEST_F(QuotasTest, DecidesInMicroseconds) {
  Database database(Options());
  Quotas quotas(&database, Three);
  const QuotaLimits limits{.requests_per_minute = 600'000'000, .tokens_per_minute = 600'000'000};
  const absl::Time start = absl::Now();
  constexpr int kTimes = 20'000;
  for (int i = 0; i < kTimes; ++i) quotas.Enter("k", limits, 1).second.End(1);
  EXPECT_LT((absl::Now() - start) / kTimes, absl::Microseconds(50));
}

}  // namespace
}  // namespace fathom::master
