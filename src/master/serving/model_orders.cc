#include "master/serving/model_orders.h"

#include <algorithm>
#include <set>
#include <utility>

#include "common/logging.h"

namespace fathom::master {
namespace {

using Phase = PlacementWorker::Phase;

constexpr int kLoadsAtOnce = 4;
constexpr int64_t kSettleNs = 3'000'000'000;
// An order that shows no effect by then is given again.
constexpr int64_t kOrderNs = 5'000'000'000;
constexpr int64_t kRetryNs = 10'000'000'000;
constexpr int kRetryDoublings = 6;
constexpr int64_t kCrashedTwiceNs = 600'000'000'000;
// Masters that have not heard yet still send requests there.
constexpr int64_t kRetireNs = 4'000'000'000;

std::string NameOf(const ModelVersionRow& row) { return ModelNameOf(row.name, row.version); }

const ServedModel* FindOn(const WorkerInfo& worker, const std::string& model) {
  const auto it = std::find_if(worker.models.begin(), worker.models.end(),
                               [&](const ServedModel& m) { return m.name == model; });
  return it == worker.models.end() ? nullptr : &*it;
}

std::string PoolOf(const WorkerInfo& worker) {
  const auto label = worker.labels.find("pool");
  return label == worker.labels.end() ? std::string() : label->second;
}

Phase PhaseOf(ModelPhase phase) {
  switch (phase) {
    case ModelPhase::kReady:
      return Phase::kReady;
    case ModelPhase::kUnloading:
      return Phase::kGoing;
    case ModelPhase::kFailed:
      return Phase::kFailed;
    default:
      return Phase::kComing;
  }
}

int64_t ReadyOn(const FleetSnapshot& fleet, const std::string& model) {
  return std::count_if(fleet.workers.begin(), fleet.workers.end(), [&](const WorkerInfo& worker) {
    const ServedModel* there = FindOn(worker, model);
    return worker.state == WorkerState::kReady && there != nullptr &&
           there->phase == ModelPhase::kReady;
  });
}

// Models of the configuration are not waited for: they are where they are.
bool IsAwaited(const RouteRow& route, const FleetSnapshot& fleet) {
  if (route.pending.empty()) return false;
  const auto targets = ParseTargets(route.pending);
  return targets.ok() &&
         std::all_of(targets->begin(), targets->end(), [&](const RouteTarget& target) {
           return SplitModelName(target.model).version == 0 || ReadyOn(fleet, target.model) > 0;
         });
}

}  // namespace

void ModelOrders::BeginTerm(int64_t now_ns) {
  *this = ModelOrders();
  begin_at_ns_ = now_ns + kSettleNs;
}

void ModelOrders::NoteFailure(const Place& place, const ServedModel& model, int64_t now_ns) {
  if (model.phase != ModelPhase::kFailed) {
    const auto known = failures_.find(place);
    if (known != failures_.end()) known->second.told = false;
    return;
  }
  Failure& failure = failures_[place];
  // A load may fail between two looks.
  if (failure.told && failure.number == model.failures) return;
  failure.told = true;
  failure.number = model.failures;
  failure.retry_at_ns = now_ns + (kRetryNs << std::min(failure.count, kRetryDoublings));
  ++failure.count;
}

PlacementWorker ModelOrders::Describe(const WorkerInfo& worker, const CatalogRows& rows,
                                      int64_t now_ns) {
  PlacementWorker out{.pool = PoolOf(worker),
                      .takes_work = worker.state == WorkerState::kReady,
                      .free_memory_bytes = worker.free_memory_bytes};
  const auto memory_of = [&](const std::string& model) -> int64_t {
    const auto row = std::find_if(rows.versions.begin(), rows.versions.end(),
                                  [&](const ModelVersionRow& r) { return NameOf(r) == model; });
    return row == rows.versions.end() ? 0 : row->memory_bytes;
  };
  for (const ServedModel& model : worker.models) {
    const Place place(worker.key.incarnation, model.name);
    const bool failed = model.phase == ModelPhase::kFailed;
    NoteFailure(place, model, now_ns);
    Phase phase = PhaseOf(model.phase);
    const auto order = ordered_.find(place);
    if (order != ordered_.end()) {
      const bool failed_before = failed && model.failures == order->second.failures;
      const bool seen =
          order->second.load ? !failed_before && phase != Phase::kGoing : phase == Phase::kGoing;
      if (seen || now_ns - order->second.at_ns > kOrderNs) {
        ordered_.erase(order);
      } else {
        phase = order->second.load ? Phase::kComing : Phase::kGoing;
      }
    }
    const auto failure = failures_.find(place);
    const bool again = failure != failures_.end() && now_ns >= failure->second.retry_at_ns;
    // What is being read has not taken all its memory yet: all of it is held free.
    if (phase == Phase::kComing) out.free_memory_bytes -= memory_of(model.name);
    out.held.push_back({.model = model.name,
                        .phase = phase,
                        .try_again = again,
                        .no_room = failed && absl::IsResourceExhausted(model.failure)});
  }
  for (auto it = ordered_.begin(); it != ordered_.end();) {
    const auto& [place, order] = *it;
    if (place.first != worker.key.incarnation || FindOn(worker, place.second) != nullptr) {
      ++it;
      continue;
    }
    if (!order.load || now_ns - order.at_ns > kOrderNs) {
      it = ordered_.erase(it);
      continue;
    }
    out.free_memory_bytes -= memory_of(place.second);
    out.held.push_back({.model = place.second, .phase = Phase::kComing});
    ++it;
  }
  return out;
}

void ModelOrders::NoteCrashes(const FleetSnapshot& fleet, int64_t now_ns) {
  std::set<std::string> alive;
  std::set<Place> loading;
  for (const WorkerInfo& worker : fleet.workers) {
    alive.insert(worker.key.incarnation);
    for (const ServedModel& model : worker.models) {
      const bool loads = model.phase == ModelPhase::kLoading || model.phase == ModelPhase::kWarming;
      // One that is told to leave goes without having crashed.
      const bool leaves = worker.state == WorkerState::kDraining;
      if (loads && !leaves) loading.emplace(worker.key.incarnation, model.name);
      // Where it has come to serve it is no danger.
      if (model.phase == ModelPhase::kReady) crashes_.erase(model.name);
    }
  }
  // Nor has one that was only silent for a while.
  for (auto it = crashes_.begin(); it != crashes_.end();) {
    Crashes& crashes = it->second;
    std::erase_if(crashes.lost, [&](const std::string& life) { return alive.contains(life); });
    it = crashes.lost.empty() ? crashes_.erase(it) : std::next(it);
  }
  for (const auto& [incarnation, model] : loading_) {
    if (alive.contains(incarnation)) continue;
    Crashes& crashes = crashes_[model];
    crashes.lost.insert(incarnation);
    crashes.retry_at_ns = now_ns + (crashes.lost.size() == 1 ? kRetryNs : kCrashedTwiceNs);
    LogWarn("models", "a worker was lost while it loaded a model",
            {{"labels.model", model},
             {"labels.times", static_cast<int64_t>(crashes.lost.size())},
             {"labels.retry_seconds", (crashes.retry_at_ns - now_ns) / 1'000'000'000}});
  }
  loading_ = std::move(loading);
}

bool ModelOrders::IsReplaced(const ModelVersionRow& row, const CatalogRows& rows,
                             const FleetSnapshot& fleet, bool room) const {
  const int64_t ready = ReadyOn(fleet, NameOf(row));
  if (ready == 0) return false;
  const int64_t before = ReadyOn(fleet, ModelNameOf(row.name, row.replaces));
  const auto old = std::find_if(rows.versions.begin(), rows.versions.end(), [&](const auto& r) {
    return r.name == row.name && r.version == row.replaces;
  });
  if (old == rows.versions.end() || old->retired || before == 0) return true;
  // As many as are to be, or as serve now; fewer where both together do not fit.
  const int64_t wanted = row.replicas < 0 ? before : std::min(row.replicas, before);
  return ready >= wanted || !room;
}

void ModelOrders::Forget(const CatalogRows& rows, const FleetSnapshot& fleet) {
  std::set<std::string> alive;
  for (const WorkerInfo& worker : fleet.workers) alive.insert(worker.key.incarnation);
  std::set<std::string> models;
  for (const ModelVersionRow& row : rows.versions) models.insert(NameOf(row));
  const auto gone = [&](const auto& entry) {
    return !alive.contains(entry.first.first) || !models.contains(entry.first.second);
  };
  std::erase_if(ordered_, gone);
  std::erase_if(failures_, gone);
  std::erase_if(crashes_, [&](const auto& entry) { return !models.contains(entry.first); });
  std::erase_if(retired_at_ns_, [&](const auto& entry) { return !models.contains(entry.first); });
}

ModelOrders::Decision ModelOrders::Decide(const CatalogRows& rows, const FleetSnapshot& fleet,
                                          int64_t now_ns) {
  Decision decision;
  NoteCrashes(fleet, now_ns);
  Forget(rows, fleet);
  std::vector<PlacementModel> models;
  for (const ModelVersionRow& row : rows.versions) {
    const std::string name = NameOf(row);
    if (!row.retired) {
      retired_at_ns_.erase(name);
    } else if (now_ns - retired_at_ns_.emplace(name, now_ns).first->second < kRetireNs) {
      continue;
    }
    const auto crashes = crashes_.find(name);
    if (!row.retired && crashes != crashes_.end() && now_ns < crashes->second.retry_at_ns) continue;
    models.push_back({.name = name,
                      .pool = row.pool,
                      .memory_bytes = row.memory_bytes,
                      .replicas = row.replicas,
                      .wanted = !row.retired});
  }
  std::vector<PlacementWorker> workers;
  for (const WorkerInfo& worker : fleet.workers) {
    workers.push_back(Describe(worker, rows, now_ns));
  }
  if (now_ns < begin_at_ns_) return decision;

  const PlacementPlan plan = PlanPlacement(models, workers, kLoadsAtOnce);
  for (const PlacementOrder& order : plan.orders) {
    const WorkerInfo& worker = fleet.workers[order.worker];
    const ServedModel* there = FindOn(worker, order.model);
    ordered_[{worker.key.incarnation, order.model}] = {
        .load = order.load, .at_ns = now_ns, .failures = there == nullptr ? 0 : there->failures};
    decision.orders.push_back({.worker = worker.key, .model = order.model, .load = order.load});
  }
  for (const ModelVersionRow& row : rows.versions) {
    if (row.retired || row.replaces == 0) continue;
    const std::string name = NameOf(row);
    const bool coming = std::any_of(workers.begin(), workers.end(), [&](const auto& worker) {
      return std::any_of(worker.held.begin(), worker.held.end(), [&](const auto& held) {
        return held.model == name && held.phase == Phase::kComing;
      });
    });
    const bool ordered = std::any_of(plan.orders.begin(), plan.orders.end(),
                                     [&](const auto& order) { return order.model == name; });
    const bool short_of_room =
        std::any_of(plan.without_room.begin(), plan.without_room.end(),
                    [&](size_t model) { return models[model].name == name; });
    if (IsReplaced(row, rows, fleet, coming || ordered || !short_of_room)) {
      decision.replaced.push_back(row);
    }
  }
  for (const RouteRow& route : rows.routes) {
    if (IsAwaited(route, fleet)) decision.routes.push_back(route);
  }
  return decision;
}

}  // namespace fathom::master
