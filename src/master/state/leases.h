#pragma once

// Leases: of those who ask for a name, one holds it until its lease ends by the database's clock.
// The epoch grows by one with every change of holder, so that what an earlier holder still says can
// be told from what today's says.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "master/state/sql_session.h"

namespace fathom::master {

struct LeaseView {
  std::string holder;
  uint64_t epoch = 0;
};

// Takes the lease, or makes it last longer, when it is free or `holder` has it. Who has it then is
// the answer.
absl::StatusOr<LeaseView> TakeLease(SqlSession& session, const std::string& name,
                                    const std::string& holder, absl::Duration ttl);

// Free at once, if `holder` has it.
absl::Status ReleaseLease(SqlSession& session, const std::string& name, const std::string& holder);

// What a holder may believe, by its own clock. The lease ends at the database no earlier than its
// ttl after the statement was *sent*; a holder that could not renew it takes itself for deposed a
// margin before that. Not thread safe.
class LeaseTerm {
 public:
  LeaseTerm(absl::Duration ttl, absl::Duration margin)
      : length_ns_(absl::ToInt64Nanoseconds(ttl - margin)) {}

  // `sent_ns`: when the statement went out that took or renewed the lease.
  void Renewed(int64_t sent_ns, uint64_t epoch) {
    until_ns_ = sent_ns + length_ns_;
    epoch_ = epoch;
  }
  void Lost() { until_ns_.reset(); }
  bool Held(int64_t now_ns) const { return until_ns_ && now_ns < *until_ns_; }
  std::optional<int64_t> until_ns() const { return until_ns_; }
  uint64_t epoch() const { return epoch_; }

 private:
  const int64_t length_ns_;
  std::optional<int64_t> until_ns_;
  uint64_t epoch_ = 0;
};

}  // namespace fathom::master
