#pragma once

// The live sessions by worker id, and the snapshot that routers read. A snapshot is built when it
// is asked for after a change, but not so often that building takes more than a small share of the
// time: in a large fleet some worker's heartbeat comes every moment, and news of others may wait a
// few milliseconds for it.
// Thread safety: every method may be called from any thread; the callback runs without a lock held.

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "master/fleet/fleet.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {

class Registry {
 public:
  explicit Registry(const Clock* clock) : clock_(clock) {}

  // ALREADY_EXISTS while a session of the same worker id lives, RESOURCE_EXHAUSTED when full.
  absl::Status Add(std::shared_ptr<WorkerSession> session);
  void Remove(const WorkerSession& session);

  // Null when there is none.
  std::shared_ptr<WorkerSession> Find(const WorkerKey& key) const;
  std::shared_ptr<WorkerSession> FindById(const std::string& worker_id) const;
  std::shared_ptr<WorkerSession> FindBySession(const std::string& session_id) const;
  std::vector<std::shared_ptr<WorkerSession>> All() const;

  std::shared_ptr<const FleetSnapshot> Snapshot() const;
  void OnChange(std::function<void(FleetNews)> callback);
  // A session changed: the snapshot is stale, and the callback hears of it.
  void Changed(FleetNews news);
  // Likewise, of the caller's own doing.
  void Stale() { stale_ = true; }

  using CacheCallback = std::function<void(const WorkerKey&, const CacheUpdate&)>;
  void OnCacheUpdate(CacheCallback callback);
  void CacheChanged(const WorkerKey& worker, const CacheUpdate& update);

 private:
  static constexpr size_t kWorkersMax = 4096;
  // A snapshot that took longer than this to build is kept for kKeep times as long as it took.
  static constexpr int64_t kDearNs = 100'000;
  static constexpr int64_t kKeep = 20;
  static constexpr int64_t kKeepNsMax = 20'000'000;

  const Clock* const clock_;

  mutable std::atomic<bool> stale_{true};
  mutable std::mutex mutex_;  // taken before any session's
  // State below is protected by mutex_.
  std::map<std::string, std::shared_ptr<WorkerSession>> by_id_;
  mutable std::shared_ptr<const FleetSnapshot> snapshot_ = std::make_shared<FleetSnapshot>();
  mutable int64_t keep_until_ns_ = 0;
  std::shared_ptr<const std::function<void(FleetNews)>> callback_;
  std::shared_ptr<const CacheCallback> cache_callback_;
};

}  // namespace fathom::master
