#include "master/state/quota_share.h"

#include <algorithm>

namespace fathom::master {
namespace {

constexpr double kBurstSeconds = 2;
// So many bursts short a bucket may be for those who go on.
constexpr double kBurstsAhead = 5;
// For so long ahead a share is leased.
constexpr double kLeaseSeconds = 1;
constexpr double kBusyPeriodSeconds = 0.5;
constexpr double kSoonestSeconds = 0.08;
constexpr double kSmoothing = 0.4;
constexpr double kGrantedSeconds = 5;

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

}  // namespace

QuotaRate RateOf(int64_t per_minute) {
  const double per_second = static_cast<double>(per_minute) / 60;
  return {per_second, std::max(1.0, kBurstSeconds * per_second)};
}

double QuotaShare::Projected(int64_t now_ns) const {
  if (blind_) return 0;
  if (!told_) return rate_.burst;
  return std::min(rate_.burst, level_ + rate_.per_second * Seconds(now_ns - told_ns_));
}

void QuotaShare::RefillBlindly(int64_t now_ns) {
  if (!blind_) return;
  const double more = blind_rate_ * Seconds(now_ns - refilled_ns_);
  refilled_ns_ = now_ns;
  Borrow(more);
}

double QuotaShare::MostBorrowed() const { return std::max(1.0, kBurstSeconds * blind_rate_); }

void QuotaShare::Borrow(double more) {
  const double before = balance_;
  balance_ = std::max(balance_, std::min(MostBorrowed(), balance_ + more));
  borrowed_ += balance_ - before;
}

bool QuotaShare::Admits(int64_t now_ns, int masters, bool goes_on) {
  RefillBlindly(now_ns);
  const double projected = Projected(now_ns);
  if (goes_on && balance_ + projected >= 1 - kBurstsAhead * rate_.burst) return true;
  // Each may spend ahead its part of what the bucket holds by now. Where parts are smaller than a
  // request, the first one is let in.
  return balance_ + std::max(0.0, projected) / std::max(1, masters) >= 1 ||
         (balance_ >= 0 && projected >= 1);
}

void QuotaShare::Charge(double cost) {
  balance_ -= cost;
  spent_ += cost;
  demand_ += std::max(0.0, cost);
}

void QuotaShare::Refuse(double cost) {
  demand_ += cost;
  refused_ = true;
}

double QuotaShare::SecondsUntilMore(int64_t now_ns) const {
  const double rate = blind_ ? blind_rate_ : rate_.per_second;
  const double there = blind_ ? balance_ : Projected(now_ns) + std::min(0.0, balance_);
  const double missing = 1 - there;
  return std::max(2 * kSoonestSeconds, missing / std::max(rate, 1e-9));
}

double QuotaShare::Remaining(int64_t now_ns) const {
  return std::clamp(balance_ + Projected(now_ns), 0.0, rate_.burst);
}

double QuotaShare::SecondsUntilFull(int64_t now_ns) const {
  return (rate_.burst - std::min(rate_.burst, balance_ + Projected(now_ns))) /
         std::max(rate_.per_second, 1e-9);
}

bool QuotaShare::IsDue(int64_t now_ns) const {
  const double since = Seconds(now_ns - exchanged_ns_);
  if (since >= kBusyPeriodSeconds) {
    return balance_ != 0 || demand_ > 0 || wanted_rate_ > 0 || blind_;
  }
  if (since < kSoonestSeconds || blind_) return false;
  return balance_ < 0 || (refused_ && Projected(now_ns) >= 1);
}

QuotaExchange QuotaShare::Prepare(int64_t now_ns) {
  const double since = std::max(kSoonestSeconds, Seconds(now_ns - exchanged_ns_));
  // Short times weigh less.
  const double weight = std::min(1.0, kSmoothing * since / kBusyPeriodSeconds + 0.1);
  wanted_rate_ += weight * (demand_ / since - wanted_rate_);
  // Over seconds, as a lease may be spent at once: the rates of all masters must not add up to more
  // than the quota's. What it lets in blindly says nothing of what it is granted.
  if (!blind_) {
    granted_rate_ +=
        std::min(1.0, since / kGrantedSeconds) * (std::max(0.0, spent_) / since - granted_rate_);
  }
  // Who asks for nothing twice gives all back.
  unasked_ = demand_ == 0 ? unasked_ + 1 : 0;
  if (unasked_ > 1) wanted_rate_ = 0;
  demand_ = 0;
  spent_ = 0;
  refused_ = false;
  exchanged_ns_ = now_ns;
  // A whole request at least, or it could never be had.
  const double target =
      wanted_rate_ > 0 ? std::min(rate_.burst, std::max(1.0, wanted_rate_ * kLeaseSeconds)) : 0;
  QuotaExchange exchange;
  exchange.debt = std::max(0.0, -balance_);
  // What was had blindly is not the bucket's.
  exchange.give = blind_ ? 0 : std::max(0.0, balance_ - target);
  exchange.want = std::max(0.0, target - std::max(0.0, balance_));
  return exchange;
}

void QuotaShare::Apply(const QuotaExchange& exchange, double taken, double level, int64_t now_ns) {
  // The bucket went on filling while nobody asked, up to a burst: so much of what was borrowed and
  // spent it can be paid back, by all together.
  if (blind_) balance_ -= std::min(borrowed_, std::max(0.0, balance_) + MostBorrowed());
  borrowed_ = 0;
  blind_ = false;
  balance_ += exchange.debt - exchange.give + taken;
  told_ = true;
  level_ = level;
  told_ns_ = now_ns;
}

void QuotaShare::Fail(int64_t now_ns, int masters) {
  if (blind_) return;
  // It might have spent that ahead the moment before, and may as well now.
  const double part = std::max(0.0, Projected(now_ns)) / std::max(1, masters);
  blind_ = true;
  blind_rate_ = std::max(granted_rate_, rate_.per_second / std::max(1, masters));
  blind_rate_ = std::min(blind_rate_, rate_.per_second);
  refilled_ns_ = now_ns;
  Borrow(part);
}

bool QuotaShare::IsIdle(int64_t now_ns) const {
  return !blind_ && balance_ == 0 && demand_ == 0 && wanted_rate_ == 0 &&
         Projected(now_ns) >= rate_.burst;
}

}  // namespace fathom::master
