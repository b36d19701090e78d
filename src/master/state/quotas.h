#pragma once

// Quotas of keys, over all masters together: requests and tokens a minute. Whether a request may
// come in is decided from memory in a microsecond; a thread settles with the database what was
// spent. While the database is away, or late, every master goes on at the rate that it had, and
// pays when it answers.
//
// Thread safety: every method may be called from any thread, those of one charge one at a time.

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/periodic.h"
#include "master/state/database.h"
#include "master/state/quota_share.h"

namespace fathom::master {

// Of one key; 0 is none.
struct QuotaLimits {
  int64_t requests_per_minute = 0;
  int64_t tokens_per_minute = 0;
  bool any() const { return requests_per_minute > 0 || tokens_per_minute > 0; }
  bool operator==(const QuotaLimits&) const = default;
};

enum class QuotaKind : uint8_t { kRequests, kTokens };

// How one quota of a key stands, as this master knows it.
struct QuotaView {
  int64_t limit = 0;
  int64_t remaining = 0;
  absl::Duration reset;  // until all of it is there again
};

struct QuotaRefusal {
  QuotaKind kind = QuotaKind::kRequests;
  int64_t limit = 0;
  absl::Duration retry_after;
};

class Quotas;

// What a request has taken of its key's token quota. What it does not use in the end goes back; all
// of it, when nothing is said.
class QuotaCharge {
 public:
  QuotaCharge() = default;
  QuotaCharge(QuotaCharge&& other) noexcept { *this = std::move(other); }
  QuotaCharge& operator=(QuotaCharge&& other) noexcept;
  ~QuotaCharge() { End(0); }

  // What it is expected to use is known better now.
  void Settle(int64_t tokens);
  // It has used so many; once.
  void End(int64_t tokens);

 private:
  friend class Quotas;
  Quotas* quotas_ = nullptr;
  std::string key_id_;
  QuotaLimits limits_;
  int64_t tokens_ = 0;
};

class Quotas {
 public:
  // `masters` tells how many live. Both outlive it.
  Quotas(Database* database, std::function<int()> masters, const Clock* clock = Clock::Real());
  ~Quotas();
  Quotas(const Quotas&) = delete;
  Quotas& operator=(const Quotas&) = delete;

  // Takes one request and so many tokens, or tells which quota is used up. `goes_on`: its client
  // has had a part of its answer, and is not to lose the rest for a little.
  std::pair<std::optional<QuotaRefusal>, QuotaCharge> Enter(const std::string& key_id,
                                                            const QuotaLimits& limits,
                                                            int64_t tokens, bool goes_on = false);
  // Nothing where there is no such quota.
  std::optional<QuotaView> View(const std::string& key_id, const QuotaLimits& limits,
                                QuotaKind kind);

  // Settles what is due; a thread of this object's calls it.
  void Tick();

 private:
  friend class QuotaCharge;
  struct Entry {
    QuotaKind kind;
    QuotaRate rate;
    QuotaShare share;
  };
  using Shares = std::unordered_map<std::string, Entry>;  // by kind and key
  struct Settlement {
    std::string name;  // in the map
    QuotaRate rate;
    QuotaExchange exchange;
    bool done = false;
  };
  // Outlives the object while a job that was posted runs.
  struct State {
    std::mutex mutex;
    Shares shares;  // protected by mutex
    // What the database is asked, null when nothing, and since when; `done` in it too is protected
    // by mutex.
    std::shared_ptr<std::vector<Settlement>> asked;
    int64_t asked_ns = 0;
    std::atomic<int> masters{1};

    // The mutex is held.
    void FailWhatIsOpen(const std::vector<Settlement>& due, int64_t now_ns);
  };
  static absl::Status Exchange(SqlSession& session, State& state, const Clock& clock,
                               std::vector<Settlement>& due);

  // The state's mutex is held.
  QuotaShare& Share(const std::string& key_id, QuotaKind kind, int64_t per_minute);
  void ChargeTokens(const std::string& key_id, const QuotaLimits& limits, int64_t tokens);

  Database* const database_;
  const std::function<int()> masters_;
  const Clock* const clock_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  std::optional<Periodic> ticker_;
};

}  // namespace fathom::master
