#pragma once

// Disturbs a local cluster at a given rate: chooses what and whom, tells the journal, strikes, and
// makes good again. At any time half of the workers are left alone, where there are several;
// masters are disturbed one at a time, and so is their database. On the thread that owns the
// cluster.

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cli/chaos/cluster_view.h"
#include "cli/chaos/fault.h"
#include "cli/chaos/journal.h"
#include "cli/chaos/packet_cuts.h"
#include "cli/chaos/postgresql.h"
#include "cli/chaos/relay.h"
#include "cli/cluster/local_cluster.h"
#include "common/clock.h"
#include "common/random.h"

namespace fathom::cli {

inline int LinkGroup(int worker, int master) { return worker * 64 + master; }

struct DisturberOptions {
  std::vector<FaultKind> kinds;
  double per_second = 1;
  int masters = 1;
  int workers = 1;
  absl::Duration warm_up;                              // before the first fault
  absl::Duration shortest = absl::Milliseconds(1500);  // of what has an end
  absl::Duration longest = absl::Milliseconds(3500);
};

class Disturber {
 public:
  // All outlive it. Worker w's link to master m is group LinkGroup(w, m) of the relay and of
  // `packet_cuts`, which cuts instead of the relay where there is one. `database`: the masters';
  // null where it is not disturbed.
  Disturber(DisturberOptions options, LocalCluster& cluster, ClusterView& view, Relay& relay,
            PacketCuts* packet_cuts, Postgresql* database, Journal& journal, const Clock& clock,
            Random& random, int64_t start_ns);

  // Every few milliseconds. An error: a disturbance could not be made, or not be undone.
  absl::Status Tick();
  // Makes everything good again, as Tick is called on; nothing new begins.
  void Heal() { healing_ = true; }
  bool quiet() const { return running_.empty(); }
  int64_t faults() const { return faults_; }

 private:
  struct Running {
    int64_t number = -1;  // not announced yet
    FaultKind kind = FaultKind::kKill;
    int worker = -1;
    int master = -1;
    absl::Duration until;                                  // monotonic; of what ends by itself
    absl::Duration toggle_at;                              // monotonic; of kSlow
    bool stopped = false;                                  // of kSlow and kDatabaseStop
    bool away = false;                                     // of kDatabaseRestart
    bool one_link = false;                                 // of kCut: only to this master
    Relay::Direction direction = Relay::Direction::kBoth;  // of kCut
    absl::Duration look_at;   // monotonic: when to see next whether all is well again
    pid_t worker_before = 0;  // of restarts
    pid_t master_before = 0;
    std::vector<std::pair<Role, int>> next;  // of kRolling: whose turn comes yet
  };

  bool Begin();
  std::optional<int> PickWorker();
  std::optional<int> PickMaster();
  // Tells the journal, with a number of its own.
  void Announce(Running& fault);
  void Strike(Running& fault);
  // Goes on with it; true when it is over.
  bool Go(Running& fault);
  absl::Status CutLinks(const Running& fault);
  absl::Status HealLinks(const Running& fault);
  void Restart(Running& fault, Role role, int index, int number);
  // Of kRolling: the next one's turn; false when all have had theirs.
  bool NextRestart(Running& fault);
  // Likewise with a fault of the database.
  bool GoDatabase(Running& fault);
  // Whether what was ended runs again and is ready.
  bool IsBack(Running& fault);
  bool IsDisturbed(Role role, int index) const;
  double NowMs() const;

  const DisturberOptions options_;
  LocalCluster& cluster_;
  ClusterView& view_;
  Relay& relay_;
  PacketCuts* const packet_cuts_;
  Postgresql* const database_;
  Journal& journal_;
  const Clock& clock_;
  Random& random_;
  const int64_t start_ns_;
  absl::Duration next_;  // when the next one is due; monotonic
  size_t turn_ = 0;
  int64_t faults_ = 0;
  bool healing_ = false;
  absl::Status status_;  // the first error
  std::list<Running> running_;
};

}  // namespace fathom::cli
