#include "master/fleet/registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fathom::master {

absl::Status Registry::Add(std::shared_ptr<WorkerSession> session) {
  const std::lock_guard lock(mutex_);
  const std::string& id = session->key().id;
  if (by_id_.contains(id)) {
    return absl::AlreadyExistsError(absl::StrCat("worker '", id, "' is linked already"));
  }
  if (by_id_.size() >= kWorkersMax) return absl::ResourceExhaustedError("too many workers");
  by_id_.emplace(id, std::move(session));
  keep_until_ns_ = 0;
  return absl::OkStatus();
}

void Registry::Remove(const WorkerSession& session) {
  std::shared_ptr<WorkerSession> removed;  // dies outside the lock
  const std::lock_guard lock(mutex_);
  const auto it = by_id_.find(session.key().id);
  if (it == by_id_.end() || it->second.get() != &session) return;
  keep_until_ns_ = 0;  // who is there is never old news
  removed = std::move(it->second);
  by_id_.erase(it);
}

std::shared_ptr<WorkerSession> Registry::Find(const WorkerKey& key) const {
  const std::lock_guard lock(mutex_);
  const auto it = by_id_.find(key.id);
  return it != by_id_.end() && it->second->key() == key ? it->second : nullptr;
}

std::shared_ptr<WorkerSession> Registry::FindById(const std::string& worker_id) const {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(worker_id);
  return found == by_id_.end() ? nullptr : found->second;
}

std::shared_ptr<WorkerSession> Registry::FindBySession(const std::string& session_id) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, session] : by_id_) {
    if (session->session_id() == session_id) return session;
  }
  return nullptr;
}

std::vector<std::shared_ptr<WorkerSession>> Registry::All() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<WorkerSession>> all;
  all.reserve(by_id_.size());
  for (const auto& [id, session] : by_id_) all.push_back(session);
  return all;
}

std::shared_ptr<const FleetSnapshot> Registry::Snapshot() const {
  const std::lock_guard lock(mutex_);
  if (!stale_) return snapshot_;
  const int64_t start_ns = clock_->MonotonicNs();
  if (start_ns < keep_until_ns_) return snapshot_;
  stale_ = false;
  auto next = std::make_shared<FleetSnapshot>();
  next->version = snapshot_->version + 1;
  next->workers.reserve(by_id_.size());
  for (const auto& [id, session] : by_id_) next->workers.push_back(session->Info());
  snapshot_ = std::move(next);
  const int64_t end_ns = clock_->MonotonicNs();
  if (end_ns - start_ns > kDearNs) {
    keep_until_ns_ = end_ns + std::min(kKeep * (end_ns - start_ns), kKeepNsMax);
  }
  return snapshot_;
}

void Registry::OnChange(std::function<void(FleetNews)> callback) {
  const std::lock_guard lock(mutex_);
  callback_ = std::make_shared<const std::function<void(FleetNews)>>(std::move(callback));
}

void Registry::Changed(FleetNews news) {
  stale_ = true;
  std::shared_ptr<const std::function<void(FleetNews)>> callback;
  {
    const std::lock_guard lock(mutex_);
    if (news == FleetNews::kMembers) keep_until_ns_ = 0;  // never old news
    callback = callback_;
  }
  if (callback != nullptr && *callback) (*callback)(news);
}

void Registry::OnCacheUpdate(CacheCallback callback) {
  const std::lock_guard lock(mutex_);
  cache_callback_ = std::make_shared<const CacheCallback>(std::move(callback));
}

void Registry::CacheChanged(const WorkerKey& worker, const CacheUpdate& update) {
  std::shared_ptr<const CacheCallback> callback;
  {
    const std::lock_guard lock(mutex_);
    callback = cache_callback_;
  }
  if (callback != nullptr && *callback) (*callback)(worker, update);
}

}  // namespace fathom::master
