#pragma once

// How much work the master takes on. Every request holds a ticket from its first byte of work to
// its end; a ticket counts one request and, once the prompt is known, its token cost. Over a limit
// a request is refused with RESOURCE_EXHAUSTED and a Retry-After computed from how fast work has
// been draining. A tenant may hold eight times what is free (dynamic thresholds, Choudhury and
// Hahne 1998): alone it gets nine parts in ten, of several each gets as much, and one that comes
// late always finds room. Any thread.

#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"

namespace fathom::master {

struct AdmissionLimits {
  int32_t requests = 4096;           // that wait or run at once
  int64_t cost = int64_t{64} << 20;  // tokens, all of them together
};

class Admission {
 public:
  Admission(AdmissionLimits limits, const Clock* clock) : limits_(limits), clock_(clock) {}
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  // Gives back what it holds when it goes. Must not outlive its Admission.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept { *this = std::move(other); }
    Ticket& operator=(Ticket&& other) noexcept {
      if (this != &other) {
        Reset();
        admission_ = std::exchange(other.admission_, nullptr);
        tenant_ = std::move(other.tenant_);
        cost_ = std::exchange(other.cost_, 0);
      }
      return *this;
    }
    ~Ticket() { Reset(); }
    void Reset();

   private:
    friend class Admission;
    Ticket(Admission* admission, std::string tenant)
        : admission_(admission), tenant_(std::move(tenant)) {}
    Admission* admission_ = nullptr;
    std::string tenant_;
    int64_t cost_ = 0;
  };

  // `least_cost`: what it will cost at least, so that it is refused before it is tokenised.
  absl::StatusOr<Ticket> Enter(const std::string& tenant, int64_t least_cost);
  // Once a ticket: its token cost.
  absl::Status Settle(Ticket& ticket, int64_t cost);

  int32_t requests() const;
  int64_t cost() const;

 private:
  // An exponentially fading sum: amount a second, over the last seconds in which there was anything
  // to drain.
  struct Rate {
    double sum = 0;
    int64_t at_ns = 0;
    void Add(double amount, int64_t busy_ns);
    double PerSecond(int64_t busy_ns) const;
  };

  struct Use {
    int32_t requests = 0;
    int64_t cost = 0;
  };

  void Release(const std::string& tenant, int64_t cost);
  // mutex_ is held. Whether so much more cost is within the limits.
  absl::Status CheckCost(const Use& use, int64_t cost) const;
  // How long there has been anything in work.
  int64_t BusyNs() const;
  // How long until `excess` has drained, within bounds that make sense to a client.
  absl::Status Refuse(double excess, const Rate& drained) const;

  const AdmissionLimits limits_;
  const Clock* const clock_;
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  int32_t requests_ = 0;
  int64_t cost_ = 0;
  int64_t busy_since_ns_ = 0;  // while requests_ > 0
  int64_t busy_before_ns_ = 0;
  std::unordered_map<std::string, Use> tenants_;  // those that hold something
  Rate drained_requests_;
  Rate drained_cost_;
};

}  // namespace fathom::master
