#pragma once

// A program started by us: it cannot outlive us, whatever kills us, has none of our files and
// connections, and is out of the terminal's reach, so that Ctrl-C comes to us alone and we decide
// the order of stopping. All calls on one thread, and that thread must live as long as the
// children: the kernel ties them to it.

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fathom::cli {

// Whose a child is to be, where it is not ours. Only root may choose.
struct RunAs {
  uid_t uid = 0;
  gid_t gid = 0;
};

class ChildProcess {
 public:
  // argv[0] is the path of the program. stdout and stderr go to the end of `log_path`.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& argv,
                                            const std::string& log_path,
                                            const std::optional<RunAs>& run_as = std::nullopt);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  // Kills what still runs.
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // How it ended ("exit code 1", "signal 9"); nothing while it runs.
  const std::optional<std::string>& Poll();
  bool ended_well() const { return ended_well_; }
  // No effect once it has ended.
  void Signal(int number);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  void Kill();

  pid_t pid_ = -1;  // -1: moved away
  std::optional<std::string> end_;
  bool ended_well_ = false;  // exit code 0
};

}  // namespace fathom::cli
