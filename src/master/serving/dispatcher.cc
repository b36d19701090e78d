#include "master/serving/dispatcher.h"

#include <algorithm>
#include <span>
#include <utility>

#include "master/serving/serving_metrics.h"

namespace fathom::master {
namespace {

constexpr int64_t kIdleRefreshNs = 20'000'000;
// Names taken in at a time: decisions wait no longer than that for a worker's long tale.
constexpr size_t kNamesAtOnce = 256;

ModelWanted WantedOf(const ServedModelInfo& model) {
  return {.name = model.name,
          .config_digest = model.config_digest,
          .tokenizer_digest = model.tokenizer_digest,
          .pool = model.pool};
}

}  // namespace

Placement& Placement::operator=(Placement&& other) noexcept {
  if (this != &other) {
    Reset();
    dispatcher_ = std::exchange(other.dispatcher_, nullptr);
    worker_ = std::move(other.worker_);
    decision_ = other.decision_;
    cost_ = other.cost_;
    suspect_ = other.suspect_;
  }
  return *this;
}

void Placement::Reset() {
  if (dispatcher_ == nullptr) return;
  std::exchange(dispatcher_, nullptr)->Release(decision_, cost_, suspect_);
}

void Placement::ClearSuspect() {
  if (dispatcher_ != nullptr && std::exchange(suspect_, false)) {
    dispatcher_->ClearSuspect(decision_.slot);
  }
}

Dispatcher::Dispatcher(Fleet* fleet, const Clock* clock, uint64_t seed)
    : fleet_(fleet), clock_(clock), router_(seed) {
  router_.Refresh(fleet->Snapshot());
}

Dispatcher::Handle Dispatcher::Enqueue(Wanted wanted) {
  std::vector<BlockNaming> namings;
  {
    const std::lock_guard lock(mutex_);
    namings = router_.NamingsOf(WantedOf(*wanted.model));
  }
  for (const BlockNaming& naming : namings) static_cast<void>(wanted.prompt.Names(naming));
  Handle handle;
  Grants grants;
  {
    const std::lock_guard lock(mutex_);
    const uint64_t tenant = wanted.tenant_hash;
    const int32_t weight = wanted.tenant_weight;
    const int32_t priority = wanted.priority;
    const int64_t cost = wanted.cost;
    const auto lane = lanes_.try_emplace(wanted.model->name).first;
    lane->second.cost += cost;
    FairQueue<Wanted>& queue = lane->second.queue;
    handle.lane = &lane->second;
    handle.entry = wanted.again ? queue.PushAgain(priority, std::move(wanted))
                                : queue.Push(tenant, weight, priority, cost, std::move(wanted));
    PlaceFrom(lane->first, lane->second, grants);
  }
  GiveOut(std::move(grants));
  return handle;
}

void Dispatcher::Remove(Handle handle) {
  std::optional<Wanted> removed;  // goes after the lock: its grant may own the last reference
  {
    const std::lock_guard lock(mutex_);
    removed = handle.lane->queue.Remove(handle.entry);
    if (removed) handle.lane->cost -= removed->cost;
  }
  // It may have been the front that nothing could pass.
  if (removed) Pump();
}

void Dispatcher::Refund(const std::string& model, uint64_t tenant_hash, int32_t tenant_weight,
                        int32_t priority, int64_t cost) {
  const std::lock_guard lock(mutex_);
  const auto lane = lanes_.find(model);
  if (lane != lanes_.end()) {
    lane->second.queue.Refund(tenant_hash, tenant_weight, priority, cost);
  }
}

void Dispatcher::Avoid(const WorkerKey& worker, absl::Duration duration) {
  const std::lock_guard lock(mutex_);
  router_.Avoid(worker, clock_->MonotonicNs() + absl::ToInt64Nanoseconds(duration));
}

bool Dispatcher::AvoidSilent(const WorkerKey& worker, const ServedModelInfo& model, int64_t cost,
                             int64_t since_ns, absl::Duration duration) {
  PromptBlocks nothing;
  const std::lock_guard lock(mutex_);
  const int64_t now_ns = clock_->MonotonicNs();
  router_.AvoidUntilHeard(worker, since_ns, now_ns + absl::ToInt64Nanoseconds(duration));
  const bool other =
      router_.Pick(WantedOf(model), &nothing, cost, now_ns).obstacle == RouteObstacle::kNone;
  if (!other) router_.Avoid(worker, 0);
  return other;
}

void Dispatcher::Pump() {
  Grants grants;
  {
    const std::lock_guard lock(mutex_);
    grants = Place();
  }
  GiveOut(std::move(grants));
}

void Dispatcher::OnFleetChange(FleetNews news) {
  if (news == FleetNews::kFigures) {
    // While nothing waits, these may come a little later with the next worker's.
    const std::lock_guard lock(mutex_);
    const int64_t now_ns = clock_->MonotonicNs();
    const bool waiting = std::any_of(lanes_.begin(), lanes_.end(),
                                     [](const auto& lane) { return !lane.second.queue.empty(); });
    if (!waiting && now_ns < refresh_at_ns_) return;
    refresh_at_ns_ = now_ns + kIdleRefreshNs;
  }
  std::shared_ptr<const FleetSnapshot> fleet = fleet_->Snapshot();
  Grants grants;
  {
    const std::lock_guard lock(mutex_);
    if (router_.Refresh(std::move(fleet))) grants = Place();
  }
  GiveOut(std::move(grants));
}

// News of a worker may come before that of its coming.
std::optional<WorkerSlot> Dispatcher::SlotOf(const WorkerKey& worker) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto slot = router_.SlotOf(worker)) return slot;
  }
  OnFleetChange(FleetNews::kMembers);
  const std::lock_guard lock(mutex_);
  return router_.SlotOf(worker);
}

Placement Dispatcher::Adopt(const WorkerKey& worker, const ServedModelInfo& model, int64_t cost) {
  if (!SlotOf(worker)) return {};
  const std::lock_guard lock(mutex_);
  const std::optional<WorkerSlot> slot = router_.SlotOf(worker);  // as it is under this lock
  if (!slot) return {};
  return {this, worker, router_.Adopt(*slot, WantedOf(model), cost), cost, /*suspect=*/false};
}

void Dispatcher::OnCacheUpdate(const WorkerKey& worker, const CacheUpdate& update) {
  if (!SlotOf(worker)) return;
  // A number may pass to another worker between two locks.
  const auto with_slot = [&](auto act) {
    const std::lock_guard lock(mutex_);
    if (const auto slot = router_.SlotOf(worker)) act(router_.index(), *slot);
  };
  const auto in_parts = [&](std::span<const Hash128> names, auto act) {
    for (; !names.empty(); names = names.subspan(std::min(kNamesAtOnce, names.size()))) {
      with_slot([&](PrefixIndex& index, WorkerSlot slot) {
        act(index, slot, names.first(std::min(kNamesAtOnce, names.size())));
      });
    }
  };
  using Names = std::span<const Hash128>;
  if (update.resync_begins) {
    with_slot([](PrefixIndex& index, WorkerSlot slot) { index.BeginResync(slot); });
  }
  in_parts(update.evicted,
           [](PrefixIndex& index, WorkerSlot slot, Names names) { index.Evict(slot, names); });
  in_parts(update.stored,
           [](PrefixIndex& index, WorkerSlot slot, Names names) { index.Store(slot, names); });
  if (update.resync_ends) {
    with_slot([](PrefixIndex& index, WorkerSlot slot) { index.EndResync(slot); });
  }
}

Dispatcher::Grants Dispatcher::Place() {
  Grants grants;
  for (auto& [name, lane] : lanes_) PlaceFrom(name, lane, grants);
  return grants;
}

void Dispatcher::PlaceFrom(const std::string& name, Lane& lane, Grants& grants) {
  // Only the front is looked at: letting small requests pass a large one would starve it.
  while (!lane.queue.empty()) {
    Wanted& front = lane.queue.Front();
    const ModelWanted model = WantedOf(*front.model);
    const int64_t now_ns = clock_->MonotonicNs();
    const FleetRouter::Decision decision = router_.Pick(model, &front.prompt, front.cost, now_ns);
    ServingMetrics::Get().routing_seconds.Observe(
        static_cast<double>(clock_->MonotonicNs() - now_ns) * 1e-9);
    if (decision.obstacle != RouteObstacle::kNone) break;
    router_.Assign(decision, &front.prompt, front.cost, now_ns);
    if (front.suspect) router_.SetSuspect(decision.slot);
    Wanted wanted = lane.queue.Pop();
    lane.cost -= wanted.cost;
    grants.emplace_back(std::move(wanted.grant), Placement(this, router_.KeyOf(decision.slot),
                                                           decision, wanted.cost, wanted.suspect));
  }
  if (std::exchange(lane.told_cost, lane.cost) != lane.cost) fleet_->ReportBacklog(name, lane.cost);
}

void Dispatcher::GiveOut(Grants grants) {
  for (auto& [grant, placement] : grants) grant(std::move(placement));
}

RouteObstacle Dispatcher::Obstacle(const ServedModelInfo& model) {
  std::shared_ptr<const FleetSnapshot> fleet = fleet_->Snapshot();
  PromptBlocks nothing;
  const std::lock_guard lock(mutex_);
  router_.Refresh(std::move(fleet));
  return router_.Pick(WantedOf(model), &nothing, 0, clock_->MonotonicNs()).obstacle;
}

size_t Dispatcher::queue_length() const {
  const std::lock_guard lock(mutex_);
  size_t length = 0;
  for (const auto& [name, lane] : lanes_) length += lane.queue.size();
  return length;
}

size_t Dispatcher::queue_length(const std::string& model) const {
  const std::lock_guard lock(mutex_);
  const auto lane = lanes_.find(model);
  return lane == lanes_.end() ? 0 : lane->second.queue.size();
}

std::set<std::string> Dispatcher::awaited_models() const {
  std::set<std::string> names;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, lane] : lanes_) {
    if (!lane.queue.empty()) names.insert(name);
  }
  return names;
}

void Dispatcher::ClearSuspect(WorkerSlot slot) {
  Grants grants;
  {
    const std::lock_guard lock(mutex_);
    router_.ClearSuspect(slot);
    grants = Place();
  }
  GiveOut(std::move(grants));
}

void Dispatcher::Release(const FleetRouter::Decision& decision, int64_t cost, bool suspect) {
  Grants grants;
  {
    const std::lock_guard lock(mutex_);
    if (suspect) router_.ClearSuspect(decision.slot);
    router_.Release(decision, cost);
    grants = Place();
  }
  GiveOut(std::move(grants));
}

}  // namespace fathom::master
