#pragma once

// Which master leads: holds the lease "leader". It asks again every second on a thread of its own;
// is_leader, term and epoch answer from memory. While the database is away the leader leads on
// until its lease may have ended, then nobody does, and nothing that serves minds.
//
// Thread safety: is_leader, term, epoch and leader may be called from any thread.
//
// Invariant: of all masters at most one is leader at a time, however long a database, a network or
// a process takes, as long as clocks run at about the same rate.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/periodic.h"
#include "master/state/database.h"
#include "master/state/leases.h"

namespace fathom::master {

struct LeadershipOptions {
  std::string holder;  // this life of this master
  absl::Duration ttl = absl::Seconds(4);
  absl::Duration margin = absl::Seconds(1);
  absl::Duration period = absl::Seconds(1);
  const Clock* clock = Clock::Real();
};

class Leadership {
 public:
  // `database` outlives it.
  Leadership(LeadershipOptions options, Database* database);
  ~Leadership();  // resigns
  Leadership(const Leadership&) = delete;
  Leadership& operator=(const Leadership&) = delete;

  // Asks no more, and gives the lease back, if the database answers soon; also one that an answer
  // still on its way brings. By the owner.
  void Resign();

  bool is_leader() const { return term().has_value(); }
  // The epoch in which this master leads now.
  std::optional<uint64_t> term() const;
  // Of the newest leader that is known, this master or another; 0 before any is.
  uint64_t epoch() const { return leader().epoch; }
  // Who held the lease when it was asked last, and that epoch; empty and 0 before.
  LeaseView leader() const;

 private:
  // Outlives the object while a job that was posted runs.
  struct State {
    explicit State(const LeadershipOptions& options) : term(options.ttl, options.margin) {}
    mutable std::mutex mutex;
    LeaseTerm term;            // protected by mutex
    LeaseView leader;          // protected by mutex
    bool told_leader = false;  // protected by mutex: what the log said last
    bool resigned = false;     // protected by mutex
    std::atomic<bool> asking{false};
  };

  void Tick();
  void Observe();
  static bool HasResigned(const State& state);
  static void Heard(State& state, const LeadershipOptions& options, int64_t sent_ns,
                    const LeaseView& lease);

  const LeadershipOptions options_;
  Database* const database_;
  const std::shared_ptr<State> state_;
  std::unique_ptr<Periodic> ticker_;
};

}  // namespace fathom::master
