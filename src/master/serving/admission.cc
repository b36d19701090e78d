#include "master/serving/admission.h"

#include <algorithm>
#include <cmath>

#include "master/serving/failure.h"

namespace fathom::master {
namespace {

constexpr double kRateWindowSeconds = 10;
constexpr double kRetryAfterSecondsMin = 1;
constexpr double kRetryAfterSecondsMax = 60;

}  // namespace

void Admission::Ticket::Reset() {
  if (admission_ != nullptr) std::exchange(admission_, nullptr)->Release(std::exchange(cost_, 0));
}

absl::StatusOr<Admission::Ticket> Admission::Enter() {
  const std::lock_guard lock(mutex_);
  if (requests_ >= limits_.requests) return Refuse(1, drained_requests_);
  ++requests_;
  return Ticket(this);
}

absl::Status Admission::Settle(Ticket& ticket, int64_t cost) {
  const std::lock_guard lock(mutex_);
  // A request alone is always let in: whether it fits at all is for the worker to say.
  if (cost_ > 0 && cost_ + cost > limits_.cost) {
    return Refuse(static_cast<double>(cost_ + cost - limits_.cost), drained_cost_);
  }
  cost_ += cost;
  ticket.cost_ = cost;
  return absl::OkStatus();
}

int32_t Admission::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

int64_t Admission::cost() const {
  const std::lock_guard lock(mutex_);
  return cost_;
}

void Admission::Release(int64_t cost) {
  const std::lock_guard lock(mutex_);
  --requests_;
  cost_ -= cost;
  const int64_t now_ns = clock_->MonotonicNs();
  drained_requests_.Add(1, now_ns);
  drained_cost_.Add(static_cast<double>(cost), now_ns);
}

absl::Status Admission::Refuse(double excess, const Rate& drained) const {
  const double rate = drained.PerSecond(clock_->MonotonicNs());
  const double wait = rate > 0 ? excess / rate : kRetryAfterSecondsMax;
  return WithRetryAfter(
      absl::ResourceExhaustedError("the server has as much work as it takes; try again later"),
      absl::Seconds(std::ceil(std::clamp(wait, kRetryAfterSecondsMin, kRetryAfterSecondsMax))));
}

void Admission::Rate::Add(double amount, int64_t now_ns) {
  sum = PerSecond(now_ns) * kRateWindowSeconds + amount;
  at_ns = now_ns;
}

double Admission::Rate::PerSecond(int64_t now_ns) const {
  const double age_seconds = static_cast<double>(now_ns - at_ns) * 1e-9;
  return sum * std::exp(-age_seconds / kRateWindowSeconds) / kRateWindowSeconds;
}

}  // namespace fathom::master
