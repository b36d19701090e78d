#include "master/state/quota_share.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "common/random.h"

namespace fathom::master {
namespace {

constexpr int64_t kStepNs = 1'000'000;  // of the simulated time
constexpr int64_t kTickNs = 100'000'000;

// The database's row, exact.
class Bucket {
 public:
  explicit Bucket(QuotaRate rate) : rate_(rate), level_(rate.burst) {}
  double Exchange(const QuotaExchange& exchange, int64_t now_ns) {
    const double flowed = static_cast<double>(now_ns - at_ns_) * 1e-9 * rate_.per_second;
    at_ns_ = now_ns;
    level_ = std::min(rate_.burst, level_ + exchange.give + flowed) - exchange.debt;
    const double taken = std::min(exchange.want, std::max(0.0, level_));
    level_ -= taken;
    return taken;
  }
  double level() const { return level_; }

 private:
  const QuotaRate rate_;
  double level_;
  int64_t at_ns_ = 0;
};

struct Scenario {
  std::vector<double> offered_per_second;  // to each master
  double cost = 1;
  double seconds = 60;
  double away_from = 1e9, away_until = 1e9;  // the database
  double late = 0, lost = 0;                 // of the exchanges
  double measured_from = 0;
};

// One master, as Quotas drives its share.
struct Spender {
  QuotaShare share;
  int64_t tick_at = 0;
  // An exchange that the database is slow with.
  std::optional<QuotaExchange> asked;
  double taken = 0, level = 0;
  bool lost = false;
  int64_t missed_at = 0, answered_at = 0;
};

// What all masters let in, in units of the quota, from `measured_from` on.
double Serve(int64_t per_minute, const Scenario& run) {
  const QuotaRate rate = RateOf(per_minute);
  Bucket bucket(rate);
  SeededRandom random(7);
  const int masters = static_cast<int>(run.offered_per_second.size());
  std::vector<Spender> spenders(masters, Spender{QuotaShare(rate, 0)});
  for (Spender& s : spenders) s.tick_at = static_cast<int64_t>(random.NextUnit() * kTickNs);
  double served = 0;
  for (int64_t now = 0; now < static_cast<int64_t>(run.seconds * 1e9); now += kStepNs) {
    const double at = static_cast<double>(now) * 1e-9;
    const bool away = at >= run.away_from && at < run.away_until;
    for (int m = 0; m < masters; ++m) {
      auto& [share, tick_at, asked, taken, level, lost, missed_at, answered_at] = spenders[m];
      if (random.NextUnit() < run.offered_per_second[m] * 1e-3) {
        if (share.Admits(now, masters)) {
          share.Charge(run.cost);
          if (at >= run.measured_from) served += run.cost;
        } else {
          share.Refuse(run.cost);
        }
      }
      if (now < tick_at) continue;
      tick_at = now + kTickNs;
      if (asked) {
        if (now >= missed_at) share.Fail(now, masters);
        if (now < answered_at) continue;
        if (!lost) share.Apply(*asked, taken, level, now);
        asked.reset();
      }
      if (!share.IsDue(now)) continue;
      const QuotaExchange exchange = share.Prepare(now);
      if (away) {
        share.Fail(now, masters);
        continue;
      }
      lost = random.NextUnit() < run.lost;
      const bool late = random.NextUnit() < run.late;
      if (!lost) {
        taken = bucket.Exchange(exchange, now);
        level = bucket.level();
      }
      if (late || lost) {
        asked = exchange;
        missed_at = now + 5 * kTickNs;
        answered_at = now + static_cast<int64_t>((4 + 11 * random.NextUnit()) * kTickNs);
        continue;
      }
      share.Apply(exchange, taken, level, now);
    }
  }
  return served;
}

struct Case {
  const char* name;
  int64_t per_minute;
  Scenario run;
};

class QuotaMinuteTest : public testing::TestWithParam<Case> {};

// From a full bucket and far over the quota: no minute holds more than 5 % too much, nor wastes
// much.
TEST_P(QuotaMinuteTest, AMinuteHoldsWhatItShould) {
  const Case& given = GetParam();
  const double served = Serve(given.per_minute, given.run);
  const auto quota = static_cast<double>(given.per_minute) * given.run.seconds / 60;
  const double masters = static_cast<double>(given.run.offered_per_second.size());
  RecordProperty("served_percent", static_cast<int>(std::lround(100 * served / quota)));
  // Where a request is a large part of the quota, one a master may be too much.
  const double slack = given.run.cost * masters;
  EXPECT_LE(served, quota * 1.05 + (slack > quota * 0.01 ? slack : 0)) << served / quota;
  EXPECT_GE(served, quota * 0.95) << served / quota;
}

INSTANTIATE_TEST_SUITE_P(
    Loads, QuotaMinuteTest,
    testing::Values(
        Case{"even", 6000, {.offered_per_second = {200, 200, 200}}},
        Case{"one", 6000, {.offered_per_second = {400, 0, 0}}},
        Case{"uneven", 6000, {.offered_per_second = {300, 80, 5}}},
        Case{"lone", 6000, {.offered_per_second = {300}}},
        Case{"just over", 6000, {.offered_per_second = {40, 40, 40}}},
        Case{"ten", 6000, {.offered_per_second = std::vector<double>(10, 50)}},
        Case{"fast", 60000, {.offered_per_second = {900, 900, 900}}},
        Case{"few", 60, {.offered_per_second = {50, 50, 50}}},
        Case{"very few", 6, {.offered_per_second = {20, 20, 20}, .seconds = 240}},
        Case{"tokens", 600'000, {.offered_per_second = {100, 100, 100}, .cost = 300}},
        Case{"tokens at one", 600'000, {.offered_per_second = {300, 0, 0}, .cost = 300}},
        Case{"late", 6000, {.offered_per_second = {200, 200, 200}, .late = 0.5}},
        Case{"always late", 6000, {.offered_per_second = {200, 200, 200}, .late = 1}},
        Case{"late at one", 6000, {.offered_per_second = {400, 0, 0}, .late = 0.5}},
        Case{"late and uneven", 6000, {.offered_per_second = {300, 80, 5}, .late = 0.5}},
        Case{"lost", 6000, {.offered_per_second = {200, 200, 200}, .lost = 0.1}},
        Case{"lost at one", 6000, {.offered_per_second = {400, 0, 0}, .lost = 0.3}},
        Case{"late tokens",
             600'000,
             {.offered_per_second = {100, 100, 100}, .cost = 300, .late = 0.5}},
        Case{"large requests",
             60'000,
             {.offered_per_second = {20, 20, 20}, .cost = 2000, .seconds = 240}}),
    [](const auto& info) {
      std::string name = info.param.name;
      std::replace(name.begin(), name.end(), ' ', '_');
      return name;
    });

TEST(QuotaShareTest, WhatIsUnderTheQuotaIsNotRefused) {
  const QuotaRate rate = RateOf(6000);
  const double served = Serve(6000, {.offered_per_second = {25, 25, 25}});
  EXPECT_GE(served, 0.98 * 75 * 60 * 0.97);
  EXPECT_GT(rate.burst, 0);
}

TEST(QuotaShareTest, WithoutTheDatabaseThingsGoOnAsTheyWere) {
  const Scenario run{.offered_per_second = {200, 200, 200},
                     .seconds = 50,
                     .away_from = 15,
                     .away_until = 45,
                     .measured_from = 20};
  const double quota = 100 * 30;
  const double served = Serve(6000, run);
  EXPECT_GE(served, 0.85 * quota);
  EXPECT_LE(served, 1.3 * quota);
}

TEST(QuotaShareTest, LosingTheDatabaseTurnsNobodyAway) {
  const QuotaRate rate = RateOf(60'000);
  QuotaShare share(rate, 0);
  const QuotaExchange exchange = share.Prepare(kTickNs);
  share.Apply(exchange, exchange.want, rate.burst, kTickNs);
  share.Charge(100);  // spent ahead of what the bucket holds
  ASSERT_TRUE(share.Admits(2 * kTickNs, 2));
  share.Fail(2 * kTickNs, 2);
  EXPECT_TRUE(share.Admits(2 * kTickNs, 2));
  share.Charge(rate.burst);
  EXPECT_FALSE(share.Admits(2 * kTickNs, 2)) << "no more than its part";
}

TEST(QuotaShareTest, ARefundIsGivenBack) {
  const QuotaRate rate = RateOf(600);
  Bucket bucket(rate);
  QuotaShare share(rate, 0);
  const auto settle = [&](int64_t now_ns) {
    const QuotaExchange exchange = share.Prepare(now_ns);
    const double taken = bucket.Exchange(exchange, now_ns);
    share.Apply(exchange, taken, bucket.level(), now_ns);
  };
  ASSERT_TRUE(share.Admits(0, 1));
  share.Charge(100);  // ten seconds' worth
  settle(kTickNs);
  EXPECT_FALSE(share.Admits(2 * kTickNs, 1));
  EXPECT_NEAR(share.SecondsUntilMore(2 * kTickNs), (1 + 100 - rate.burst) / 10 - 0.1, 0.05);
  share.Charge(-95);
  EXPECT_TRUE(share.Admits(2 * kTickNs, 1));
  int64_t now = 0;
  for (int i = 1; i < 20 && !share.IsIdle(now); ++i) settle(now = i * 5 * kTickNs);
  EXPECT_TRUE(share.IsIdle(now));
  EXPECT_NEAR(bucket.level(), rate.burst, 1e-6);
}

}  // namespace
}  // namespace fathom::master
