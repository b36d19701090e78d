#include "master/serving/dispatcher.h"

#include <utility>

namespace fathom::master {

Placement& Placement::operator=(Placement&& other) noexcept {
  if (this != &other) {
    Reset();
    dispatcher_ = std::exchange(other.dispatcher_, nullptr);
    worker_ = std::move(other.worker_);
    cost_ = other.cost_;
  }
  return *this;
}

void Placement::Reset() {
  if (dispatcher_ != nullptr) std::exchange(dispatcher_, nullptr)->Release(worker_, cost_);
}

Dispatcher::Handle Dispatcher::Enqueue(Wanted wanted) {
  Handle handle = 0;
  {
    const std::lock_guard lock(mutex_);
    const uint64_t tenant = wanted.tenant_hash;
    const int32_t priority = wanted.priority;
    const int64_t cost = wanted.cost;
    queued_cost_ += cost;
    handle = queue_.Push(tenant, priority, cost, std::move(wanted));
  }
  Pump();
  return handle;
}

void Dispatcher::Remove(Handle handle) {
  std::optional<Wanted> removed;  // goes after the lock: its grant may own the last reference
  {
    const std::lock_guard lock(mutex_);
    removed = queue_.Remove(handle);
    if (removed) queued_cost_ -= removed->cost;
  }
  // It may have been the front that nothing could pass.
  if (removed) Pump();
}

void Dispatcher::Avoid(const WorkerKey& worker, absl::Duration duration) {
  const int64_t now_ns = clock_->MonotonicNs();
  const std::lock_guard lock(mutex_);
  // Workers come and go: what is over is forgotten here.
  std::erase_if(loads_, [now_ns](const auto& load) {
    return load.second.requests == 0 && load.second.avoid_until_ns <= now_ns;
  });
  loads_[worker].avoid_until_ns = now_ns + absl::ToInt64Nanoseconds(duration);
}

void Dispatcher::Pump() {
  std::vector<std::pair<Grant, Placement>> grants;
  {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const FleetSnapshot> fleet;
    if (!queue_.empty()) fleet = fleet_->Snapshot();
    // Only the front is looked at: letting small requests pass a large one would starve it.
    while (!queue_.empty()) {
      const Wanted& front = queue_.Front();
      const Route route = PickWorker(*fleet, loads_, RouteFor(*front.model, front.cost));
      if (!route.worker) break;
      const WorkerKey& key = fleet->workers[*route.worker].key;
      Wanted wanted = queue_.Pop();
      queued_cost_ -= wanted.cost;
      WorkerLoad& load = loads_[key];
      load.cost += wanted.cost;
      load.requests += 1;
      grants.emplace_back(std::move(wanted.grant), Placement(this, key, wanted.cost));
    }
    fleet_->ReportBacklog(queued_cost_);
  }
  for (auto& [grant, placement] : grants) grant(std::move(placement));
}

RouteObstacle Dispatcher::Obstacle(const ServedModelInfo& model) const {
  const std::lock_guard lock(mutex_);
  return PickWorker(*fleet_->Snapshot(), loads_, RouteFor(model, 0)).obstacle;
}

size_t Dispatcher::queue_length() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

void Dispatcher::Release(const WorkerKey& worker, int64_t cost) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = loads_.find(worker);
    found->second.cost -= cost;
    found->second.requests -= 1;
    if (found->second.requests == 0 && found->second.avoid_until_ns <= clock_->MonotonicNs()) {
      loads_.erase(found);
    }
  }
  Pump();
}

RouteRequest Dispatcher::RouteFor(const ServedModelInfo& model, int64_t cost) const {
  return {.model = model.name,
          .config_digest = model.config_digest,
          .tokenizer_digest = model.tokenizer_digest,
          .cost = cost,
          .now_ns = clock_->MonotonicNs()};
}

}  // namespace fathom::master
