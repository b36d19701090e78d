#include "master/serving/admission.h"

#include <algorithm>
#include <cmath>

#include "master/serving/failure.h"

namespace fathom::master {
namespace {

constexpr int32_t kTenantShare = 8;
constexpr double kRateWindowSeconds = 10;
constexpr double kRetryAfterSecondsMin = 1;
constexpr double kRetryAfterSecondsMax = 60;

double Fading(int64_t age_ns) {
  return std::exp(-static_cast<double>(age_ns) * 1e-9 / kRateWindowSeconds);
}

}  // namespace

void Admission::Ticket::Reset() {
  if (admission_ == nullptr) return;
  std::exchange(admission_, nullptr)->Release(tenant_, std::exchange(cost_, 0));
}

absl::StatusOr<Admission::Ticket> Admission::Enter(const std::string& tenant, int64_t least_cost) {
  const std::lock_guard lock(mutex_);
  const auto found = tenants_.find(tenant);
  const Use use = found == tenants_.end() ? Use{} : found->second;
  const int32_t free = limits_.requests - requests_;
  if (use.requests >= kTenantShare * std::max(0, free)) return Refuse(1, drained_requests_);
  if (absl::Status status = CheckCost(use, least_cost); !status.ok()) return status;
  if (++requests_ == 1) busy_since_ns_ = clock_->MonotonicNs();
  ++tenants_[tenant].requests;
  return Ticket(this, tenant);
}

absl::Status Admission::Settle(Ticket& ticket, int64_t cost) {
  const std::lock_guard lock(mutex_);
  Use& use = tenants_[ticket.tenant_];
  if (absl::Status status = CheckCost(use, cost); !status.ok()) return status;
  cost_ += cost;
  use.cost += cost;
  ticket.cost_ = cost;
  return absl::OkStatus();
}

absl::Status Admission::CheckCost(const Use& use, int64_t cost) const {
  // A request alone is always let in: whether it fits at all is for the worker to say.
  if (cost_ == 0) return absl::OkStatus();
  const int64_t free = limits_.cost - cost_;
  // By what the tenant holds already, so that one large request may take its share in one. What
  // drains counts for both sides of its threshold.
  const int64_t over_share = use.cost - kTenantShare * std::max<int64_t>(0, free);
  const int64_t over = std::max(cost - free, (over_share + kTenantShare) / (kTenantShare + 1));
  if (over <= 0) return absl::OkStatus();
  return Refuse(static_cast<double>(over), drained_cost_);
}

int32_t Admission::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

int64_t Admission::cost() const {
  const std::lock_guard lock(mutex_);
  return cost_;
}

void Admission::Release(const std::string& tenant, int64_t cost) {
  const std::lock_guard lock(mutex_);
  const int64_t busy_ns = BusyNs();
  if (--requests_ == 0) busy_before_ns_ = busy_ns;
  cost_ -= cost;
  const auto found = tenants_.find(tenant);
  found->second.cost -= cost;
  if (--found->second.requests == 0) tenants_.erase(found);
  drained_requests_.Add(1, busy_ns);
  drained_cost_.Add(static_cast<double>(cost), busy_ns);
}

int64_t Admission::BusyNs() const {
  return busy_before_ns_ + (requests_ > 0 ? clock_->MonotonicNs() - busy_since_ns_ : 0);
}

absl::Status Admission::Refuse(double excess, const Rate& drained) const {
  const int64_t busy_ns = BusyNs();
  const double rate = drained.PerSecond(busy_ns);
  // Where nothing has drained yet it takes as long again, for all one can know.
  const double wait = rate > 0 ? excess / rate : static_cast<double>(busy_ns) / 1e9;
  return WithRetryAfter(
      absl::ResourceExhaustedError("the server has as much work as it takes; try again later"),
      absl::Seconds(std::ceil(std::clamp(wait, kRetryAfterSecondsMin, kRetryAfterSecondsMax))));
}

void Admission::Rate::Add(double amount, int64_t busy_ns) {
  sum = sum * Fading(busy_ns - at_ns) + amount;
  at_ns = busy_ns;
}

double Admission::Rate::PerSecond(int64_t busy_ns) const {
  // Of a window that has not filled yet, what there is of it.
  const double seconds = kRateWindowSeconds * (1 - Fading(busy_ns));
  return seconds > 0 ? sum * Fading(busy_ns - at_ns) / seconds : 0;
}

}  // namespace fathom::master
