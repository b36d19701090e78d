#pragma once

// A PostgreSQL of the run's own, for its masters alone: a socket in a folder, no port, no password.
// It can be killed and started again, stopped and set going. Whatever ends us, nothing of it is
// left running. As root the server runs as the user "postgres", since it refuses root. All calls on
// the thread that made it (see ChildProcess).

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/cluster/child_process.h"
#include "common/shutdown.h"

namespace fathom::cli {

// The folder of PostgreSQL's programs: the first of `path` (as in $PATH) that has them, else the
// newest version's below `versions` (Debian: /usr/lib/postgresql). NOT_FOUND: it is not installed.
absl::StatusOr<std::string> FindPostgresql(std::string_view path, const std::string& versions);

// Whether what a server writes into postmaster.pid says that this process takes connections.
bool SaysReady(std::string_view postmaster_pid, pid_t pid);

class Postgresql {
 public:
  // Makes a database in `folder`/database and returns when it takes connections. What the programs
  // say is in `folder`/logs/database.log.
  static absl::StatusOr<std::unique_ptr<Postgresql>> Start(const std::string& folder,
                                                           ShutdownSignal& shutdown);
  ~Postgresql();
  Postgresql(const Postgresql&) = delete;
  Postgresql& operator=(const Postgresql&) = delete;

  // As a master takes it.
  std::string url() const;

  // SIGKILL of all its processes: connections break, and there is no server.
  void Kill();
  // After that. It takes connections a little later.
  absl::Status StartAgain();
  // SIGSTOP of all its processes: what is asked hangs, and nothing is refused.
  absl::Status Stop();
  void Continue();

  // Takes connections (it may be stopped). An error when the server has ended by itself.
  absl::StatusOr<bool> IsReady();

 private:
  Postgresql(std::string programs, std::string folder)
      : programs_(std::move(programs)), folder_(std::move(folder)) {}

  absl::Status MakeFolder();
  absl::Status MakeDatabase(ShutdownSignal& shutdown);
  std::string DataPath() const { return folder_ + "/database"; }
  std::string LogPath() const { return folder_ + "/logs/database.log"; }
  absl::Status EndedError(const std::string& what, const std::string& end) const;
  // The server's and those of its children. None starts another any more: it is stopped.
  std::vector<pid_t> StopAndListProcesses();

  const std::string programs_;
  const std::string folder_;
  std::optional<RunAs> run_as_;
  std::optional<ChildProcess> server_;
  std::vector<pid_t> stopped_;
  // Processes that are stopped do not notice that their server is gone. A process that ends them
  // when we are gone first, and its pipe.
  pid_t guard_ = 0;
  int guard_fd_ = -1;
};

}  // namespace fathom::cli
