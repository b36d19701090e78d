#pragma once

// The state folder of a local cluster: its API key, the hashed key its master reads, what runs now,
// logs. Mode 0700, since the key opens the cluster. A lock that the kernel drops with its holder
// tells whether a cluster runs. Not thread-safe.

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/random.h"

namespace fathom::cli {

// What a running cluster tells the other commands.
struct ClusterInfo {
  pid_t pid = 0;  // of `fathom up`
  std::string http_url;
  std::string grpc_address;
  std::string admin_address;
  std::string model;
  bool open = false;  // no key is asked for
};

// $XDG_STATE_HOME/fathom, else ~/.local/state/fathom. FAILED_PRECONDITION without both variables.
absl::StatusOr<std::string> DefaultStateDir();

class StateDir {
 public:
  class Lock;

  // The folder, made when missing. PERMISSION_DENIED when it is not ours alone.
  static absl::StatusOr<StateDir> Open(const std::string& path);

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  std::string keys_file() const { return File("keys"); }

  // The key of this folder. NOT_FOUND before the first cluster.
  absl::StatusOr<std::string> ReadKey() const;
  // The same, made with its hashed twin where missing.
  absl::StatusOr<std::string> EnsureKey(Random& random) const;

  // Held for as long as the cluster runs. FAILED_PRECONDITION while another holds it.
  absl::StatusOr<std::unique_ptr<Lock>> TryLock() const;

  absl::Status WriteCluster(const ClusterInfo& info) const;
  void RemoveCluster() const;
  // UNAVAILABLE when none runs.
  absl::StatusOr<ClusterInfo> RunningCluster() const;

 private:
  explicit StateDir(std::string path) : path_(std::move(path)) {}
  bool IsLocked() const;

  std::string path_;
};

class StateDir::Lock {
 public:
  explicit Lock(int fd) : fd_(fd) {}
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  const int fd_;
};

}  // namespace fathom::cli
