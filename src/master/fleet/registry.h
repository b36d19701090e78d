#pragma once

// The live sessions by worker id, and the snapshot that routers read. A snapshot is built when it
// is asked for after a change, so that heartbeats of a large fleet cost nothing by themselves.
// Thread safety: every method may be called from any thread; the callback runs without a lock held.

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "master/fleet/fleet.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {

class Registry {
 public:
  // ALREADY_EXISTS while a session of the same worker id lives, RESOURCE_EXHAUSTED when full.
  absl::Status Add(std::shared_ptr<WorkerSession> session);
  void Remove(const WorkerSession& session);

  // Null when there is none.
  std::shared_ptr<WorkerSession> Find(const WorkerKey& key) const;
  std::shared_ptr<WorkerSession> FindById(const std::string& worker_id) const;
  std::shared_ptr<WorkerSession> FindBySession(const std::string& session_id) const;
  std::vector<std::shared_ptr<WorkerSession>> All() const;

  std::shared_ptr<const FleetSnapshot> Snapshot() const;
  void OnChange(std::function<void()> callback);
  // A session changed; `notify` runs the callback too.
  void Changed(bool notify);

 private:
  static constexpr size_t kWorkersMax = 4096;

  mutable std::atomic<bool> stale_{true};
  mutable std::mutex mutex_;  // taken before any session's
  // State below is protected by mutex_.
  std::map<std::string, std::shared_ptr<WorkerSession>> by_id_;
  mutable std::shared_ptr<const FleetSnapshot> snapshot_ = std::make_shared<FleetSnapshot>();
  std::shared_ptr<const std::function<void()>> callback_;
};

}  // namespace fathom::master
