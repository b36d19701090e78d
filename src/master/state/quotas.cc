#include "master/state/quotas.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "master/state/quota_rows.h"
#include "master/state/state_metrics.h"

namespace fathom::master {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
// Past that nobody waits any more, but an answer that comes yet still counts: what a slow database
// has paid or taken is not lost.
constexpr absl::Duration kLate = absl::Milliseconds(500);
constexpr absl::Duration kExchangeLimit = absl::Seconds(2);
// In one job; more wait for the next tick.
constexpr size_t kSettledAtOnce = 256;

constexpr char kRequests[] = "requests";
constexpr char kTokens[] = "tokens";

std::string NameOf(const std::string& key_id, QuotaKind kind) {
  return absl::StrCat(kind == QuotaKind::kRequests ? "r" : "t", key_id);
}

}  // namespace

QuotaCharge& QuotaCharge::operator=(QuotaCharge&& other) noexcept {
  if (this == &other) return *this;
  End(0);
  quotas_ = std::exchange(other.quotas_, nullptr);
  key_id_ = std::move(other.key_id_);
  limits_ = other.limits_;
  tokens_ = std::exchange(other.tokens_, 0);
  return *this;
}

void QuotaCharge::Settle(int64_t tokens) {
  if (quotas_ == nullptr) return;
  quotas_->ChargeTokens(key_id_, limits_, tokens - tokens_);
  tokens_ = tokens;
}

void QuotaCharge::End(int64_t tokens) {
  if (quotas_ == nullptr) return;
  Settle(tokens);
  quotas_ = nullptr;
}

Quotas::Quotas(Database* database, std::function<int()> masters, const Clock* clock)
    : database_(database), masters_(std::move(masters)), clock_(clock) {
  ticker_.emplace(kTick, [this] { Tick(); });
}

Quotas::~Quotas() { ticker_.reset(); }

QuotaShare& Quotas::Share(const std::string& key_id, QuotaKind kind, int64_t per_minute) {
  const QuotaRate rate = RateOf(per_minute);
  return state_->shares
      .try_emplace(NameOf(key_id, kind), Entry{kind, rate, QuotaShare(rate, clock_->MonotonicNs())})
      .first->second.share;
}

std::pair<std::optional<QuotaRefusal>, QuotaCharge> Quotas::Enter(const std::string& key_id,
                                                                  const QuotaLimits& limits,
                                                                  int64_t tokens, bool goes_on) {
  QuotaCharge charge;
  if (!limits.any()) return {std::nullopt, std::move(charge)};
  const int64_t now_ns = clock_->MonotonicNs();
  const int masters = state_->masters;
  const std::lock_guard lock(state_->mutex);
  const auto refuse = [&](QuotaKind kind, QuotaShare& share, double cost, int64_t limit) {
    share.Refuse(cost);
    StateMetrics& metrics = StateMetrics::Get();
    (kind == QuotaKind::kRequests ? metrics.request_quota_rejections
                                  : metrics.token_quota_rejections)
        .Increment();
    return QuotaRefusal{kind, limit, absl::Seconds(share.SecondsUntilMore(now_ns))};
  };
  QuotaShare* requests = nullptr;
  if (limits.requests_per_minute > 0) {
    requests = &Share(key_id, QuotaKind::kRequests, limits.requests_per_minute);
    if (!requests->Admits(now_ns, masters, goes_on)) {
      return {refuse(QuotaKind::kRequests, *requests, 1, limits.requests_per_minute),
              std::move(charge)};
    }
  }
  if (limits.tokens_per_minute > 0) {
    QuotaShare& share = Share(key_id, QuotaKind::kTokens, limits.tokens_per_minute);
    const auto cost = static_cast<double>(std::max<int64_t>(1, tokens));
    if (!share.Admits(now_ns, masters, goes_on)) {
      return {refuse(QuotaKind::kTokens, share, cost, limits.tokens_per_minute), std::move(charge)};
    }
    share.Charge(cost);
    charge.tokens_ = static_cast<int64_t>(cost);
    charge.quotas_ = this;
    charge.key_id_ = key_id;
    charge.limits_ = limits;
  }
  if (requests != nullptr) requests->Charge(1);
  return {std::nullopt, std::move(charge)};
}

void Quotas::ChargeTokens(const std::string& key_id, const QuotaLimits& limits, int64_t tokens) {
  if (tokens == 0) return;
  const std::lock_guard lock(state_->mutex);
  Share(key_id, QuotaKind::kTokens, limits.tokens_per_minute).Charge(static_cast<double>(tokens));
}

std::optional<QuotaView> Quotas::View(const std::string& key_id, const QuotaLimits& limits,
                                      QuotaKind kind) {
  const int64_t limit =
      kind == QuotaKind::kRequests ? limits.requests_per_minute : limits.tokens_per_minute;
  if (limit <= 0) return std::nullopt;
  const int64_t now_ns = clock_->MonotonicNs();
  const std::lock_guard lock(state_->mutex);
  const QuotaShare& share = Share(key_id, kind, limit);
  return QuotaView{.limit = limit,
                   .remaining = static_cast<int64_t>(std::floor(share.Remaining(now_ns))),
                   .reset = absl::Seconds(share.SecondsUntilFull(now_ns))};
}

void Quotas::Tick() {
  state_->masters = std::max(1, masters_());
  const int64_t now_ns = clock_->MonotonicNs();
  auto due = std::make_shared<std::vector<Settlement>>();
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->asked != nullptr) {
      if (now_ns - state_->asked_ns >= absl::ToInt64Nanoseconds(kLate)) {
        state_->FailWhatIsOpen(*state_->asked, now_ns);
      }
      return;
    }
    for (auto it = state_->shares.begin(); it != state_->shares.end();) {
      QuotaShare& share = it->second.share;
      if (share.IsIdle(now_ns)) {
        it = state_->shares.erase(it);
        continue;
      }
      if (due->size() < kSettledAtOnce && share.IsDue(now_ns)) {
        due->push_back({it->first, it->second.rate, share.Prepare(now_ns)});
      }
      ++it;
    }
    if (due->empty()) return;
    state_->asked = due;
    state_->asked_ns = now_ns;
  }
  database_->Post(
      kExchangeLimit,
      [state = state_, clock = clock_, due](SqlSession& session) {
        return Exchange(session, *state, *clock, *due);
      },
      [state = state_, clock = clock_, due](const absl::Status& status) {
        const std::lock_guard lock(state->mutex);
        if (!status.ok()) state->FailWhatIsOpen(*due, clock->MonotonicNs());
        state->asked = nullptr;
      });
}

void Quotas::State::FailWhatIsOpen(const std::vector<Settlement>& due, int64_t now_ns) {
  for (const Settlement& settlement : due) {
    const auto it = shares.find(settlement.name);
    if (settlement.done || it == shares.end()) continue;
    it->second.share.Fail(now_ns, masters);
  }
}

absl::Status Quotas::Exchange(SqlSession& session, State& state, const Clock& clock,
                              std::vector<Settlement>& due) {
  for (Settlement& settlement : due) {
    ASSIGN_OR_RETURN(const QuotaAnswer answer,
                     ExchangeQuota(session, settlement.name.substr(1),
                                   settlement.name[0] == 'r' ? kRequests : kTokens, settlement.rate,
                                   settlement.exchange));
    const std::lock_guard lock(state.mutex);
    settlement.done = true;
    const auto it = state.shares.find(settlement.name);
    if (it == state.shares.end()) continue;
    it->second.share.Apply(settlement.exchange, answer.taken, answer.level, clock.MonotonicNs());
  }
  return absl::OkStatus();
}

}  // namespace fathom::master
