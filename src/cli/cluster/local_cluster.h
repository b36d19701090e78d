#pragma once

// Masters and workers as children of this process: started together, watched, restarted when they
// end, drained in order. All calls on one thread (see ChildProcess).

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/cluster/child_process.h"
#include "cli/cluster/link_certificates.h"
#include "cli/cluster/restart_policy.h"
#include "cli/cluster/state_dir.h"
#include "common/clock.h"
#include "common/shutdown.h"

namespace fathom::cli {

struct ClusterOptions {
  std::string model;       // directory; empty: the model that ships with Fathom
  std::string model_name;  // empty: the directory's name
  int masters = 1;
  int workers = 1;
  uint16_t http_port = 0;  // of the first master, the next one has two more; 0: any free one
  uint16_t grpc_port = 0;  // likewise
  std::string device = "cpu";
  std::string dummy_weights;  // a shape; empty: the model's own
  std::string backend;        // empty: the worker's default
  std::string dtype;          // empty: the worker's default
  bool open = false;          // no key
  int64_t kv_cache_bytes =
      0;  // of each worker; 0: the worker's default, or a share of what is free
  std::string worker_program = "fathom-worker";  // beside our own binary
  std::string database;  // the masters'; empty: a file in the state folder, where links are null
  std::vector<std::string> master_flags;  // more of them
  std::vector<std::string> worker_flags;
  // What a worker dials, given the masters' link ports; null: the masters themselves.
  std::function<absl::StatusOr<std::vector<std::string>>(int, const std::vector<uint16_t>&)> links;
};

struct MasterPorts {
  uint16_t http = 0;
  uint16_t grpc = 0;
  uint16_t admin = 0;
  uint16_t link = 0;
  uint16_t metrics = 0;
};

enum class Role { kMaster, kWorker };

class LocalCluster {
 public:
  // Returns once every worker is ready. CANCELLED when `shutdown` is asked for meanwhile; an error
  // of a child carries the end of its log.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(ClusterOptions options,
                                                             const StateDir& state,
                                                             ShutdownSignal& shutdown);
  // Kills what still runs.
  ~LocalCluster() = default;

  const ClusterInfo& info() const { return info_; }  // of the first master
  const std::vector<MasterPorts>& masters() const { return masters_; }
  std::string MasterName(int index) const;
  static std::string WorkerName(int index);
  int64_t crashes() const { return crashes_; }  // ends that nobody wanted

  // Its process (it may be stopped); 0 from its end until Tend starts it again.
  pid_t Pid(Role role, int index);
  // A signal to one of them. No effect while it does not run.
  void Signal(Role role, int index, int number);
  // The next end of it is wanted: Tend starts it again at once, and silently.
  void ExpectEnd(Role role, int index);

  // Looks after the children once; call it every few milliseconds. Says on stderr what it restarts.
  // An error when a child keeps crashing: the cluster is then of no use.
  absl::Status Tend();

  // The master finishes what runs, then the workers go. Returns when all are gone: by themselves,
  // or killed when the time is over or `shutdown` is asked for once more.
  void Drain(ShutdownSignal& shutdown, absl::Duration limit);

 private:
  struct Member {
    std::string name;  // "master", "worker-0"; also its log and its ports file
    std::vector<std::string> argv;
    std::unique_ptr<ChildProcess> process;
    RestartPolicy policy;
    absl::Duration started_at;  // monotonic
    absl::Duration start_next;  // monotonic; meaningful without a process
    bool end_wanted = false;
  };

  LocalCluster(ClusterOptions options, const StateDir& state)
      : options_(std::move(options)), state_(state) {}

  absl::Status StartAll(ShutdownSignal& shutdown);
  absl::Status StartMasters(ShutdownSignal& shutdown);
  absl::Status StartWorkers(ShutdownSignal& shutdown);
  absl::Status StartMember(Member& member);
  absl::Status TendMember(Member& member);
  // Waits for the member's ports file.
  absl::StatusOr<std::string> PortsOf(Member& member, ShutdownSignal& shutdown);
  absl::Status WaitReady(Member& member, uint16_t port, ShutdownSignal& shutdown);
  absl::Status CheckAlive(Member& member);
  std::vector<std::string> MasterArguments(int index, const MasterPorts& ports) const;
  absl::StatusOr<std::vector<std::string>> WorkerArguments(int index) const;
  Member& MemberAt(Role role, int index);
  std::string LogPath(const Member& member) const;
  std::string PortsPath(const std::string& name) const;
  void StopMembers(size_t first, size_t last, ShutdownSignal& shutdown, int count_before,
                   absl::Duration limit);

  const ClusterOptions options_;
  const StateDir state_;
  const Clock& clock_ = *Clock::Real();
  std::string master_program_;
  std::string worker_program_;
  LinkCertificates certificates_;
  std::vector<Member> members_;  // the masters first
  std::vector<MasterPorts> masters_;
  ClusterInfo info_;
  int64_t crashes_ = 0;
};

}  // namespace fathom::cli
