#pragma once

// What a master shares with the others: the database, who leads, and who there is. It is opened
// before the master listens, and joined once it does. Everything it says comes from memory; without
// the database the last that was known holds.
//
// Thread safety: all but Open, Join and the destructor may be called from any thread.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/periodic.h"
#include "master/state/database.h"
#include "master/state/leadership.h"
#include "master/state/master_conflicts.h"
#include "master/state/master_rows.h"

namespace fathom::master {

// What a master counts of itself.
struct MasterLoad {
  int64_t queued = 0;
  int64_t in_flight = 0;
  int64_t workers = 0;
  double tokens_total = 0;  // output, since it started
};

class ClusterState {
 public:
  // FAILED_PRECONDITION when the database's schema is one that this release must not use. A
  // database that does not answer is waited for a moment, then done without until it does.
  static absl::StatusOr<std::unique_ptr<ClusterState>> Open(DatabaseUrl url);
  ~ClusterState();  // tells the others that this master goes
  ClusterState(const ClusterState&) = delete;
  ClusterState& operator=(const ClusterState&) = delete;

  // From now on the others see this master, and it may lead. `load` is called on a thread of this
  // object's, every second.
  void Join(MasterIdentity self, std::function<MasterLoad()> load);
  // The others do not see it any more, and one of them may lead. Once; `load` is not called again.
  void Leave();

  Database& database() { return database_; }
  bool database_up() const { return database_.up(); }
  std::string database_place() const { return database_.url().Redacted(); }
  bool is_leader() const { return term().has_value(); }
  // The epoch in which this master leads now.
  std::optional<uint64_t> term() const { return joined_ ? leadership_->term() : std::nullopt; }
  // Of the newest leader that is known; 0 before any is.
  uint64_t epoch() const { return joined_ ? leadership_->epoch() : 0; }
  // Which master leads, as the lease said last, by its incarnation, and its epoch; empty: none is
  // known.
  LeaseView leader() const { return joined_ ? leadership_->leader() : LeaseView(); }
  // Masters that live, this one included once it has joined.
  std::vector<MasterRow> masters() const;
  // What sets some of them at odds with this one.
  std::vector<MasterConflict> conflicts() const;
  // Their link addresses, sorted; none where the database is this master's alone.
  std::vector<std::string> link_addresses() const;
  // This master's name for this life; empty before Join.
  std::string incarnation() const;
  // This master's among them; empty: it is not told.
  std::string link_address() const;

 private:
  struct Members {
    mutable std::mutex mutex;
    MasterIdentity self;          // protected by mutex; empty before Join
    std::vector<MasterRow> rows;  // protected by mutex
    bool left = false;            // protected by mutex
    std::set<std::string> told;   // protected by mutex: conflicts that are in the log
    std::atomic<bool> asking{false};
  };

  explicit ClusterState(DatabaseOptions options) : database_(std::move(options)) {}
  void Tick();
  // The mutex is held.
  static void TellConflicts(Members& members);

  Database database_;
  const std::shared_ptr<Members> members_ = std::make_shared<Members>();
  std::function<MasterLoad()> load_;
  // The ticker's own.
  double tokens_before_ = 0;
  double tokens_per_second_ = 0;
  std::atomic<bool> joined_{false};
  std::unique_ptr<Leadership> leadership_;  // others look at it once joined_ is set
  std::unique_ptr<Periodic> ticker_;
};

}  // namespace fathom::master
