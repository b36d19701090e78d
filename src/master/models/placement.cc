#include "master/models/placement.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

namespace fathom::master {
namespace {

using Phase = PlacementWorker::Phase;

const PlacementWorker::Held* HeldBy(const PlacementWorker& worker, const std::string& model) {
  const auto it = std::find_if(worker.held.begin(), worker.held.end(),
                               [&](const PlacementWorker::Held& h) { return h.model == model; });
  return it == worker.held.end() ? nullptr : &*it;
}

class Planner {
 public:
  Planner(const std::vector<PlacementModel>& models, const std::vector<PlacementWorker>& workers,
          int loads_at_once)
      : models_(models), workers_(workers), loads_left_(loads_at_once) {
    for (const PlacementWorker& worker : workers) {
      bool coming = false;
      for (const PlacementWorker::Held& held : worker.held) {
        if (held.phase != Phase::kComing) continue;
        coming = true;
        --loads_left_;
      }
      loading_.push_back(coming);
    }
  }

  PlacementPlan Plan() {
    std::vector<Need> needs;
    for (size_t i = 0; i < models_.size(); ++i) {
      if (!models_[i].wanted) {
        UnloadEverywhere(models_[i].name);
        continue;
      }
      needs.push_back(NeedOf(i));
      if (needs.back().missing < 0) Trim(models_[i], -needs.back().missing);
    }
    while (true) {
      std::erase_if(needs, [](const Need& need) { return need.missing <= 0; });
      if (needs.empty()) break;
      const auto neediest = std::min_element(needs.begin(), needs.end());
      const std::optional<size_t> worker = PlaceFor(models_[neediest->model]);
      if (!worker) {
        if (!waits_ && !failed_) plan_.without_room.push_back(neediest->model);
        needs.erase(neediest);
        continue;
      }
      Order(*worker, models_[neediest->model]);
      ++neediest->have;
      --neediest->missing;
    }
    return std::move(plan_);
  }

 private:
  struct Need {
    size_t model = 0;
    int64_t have = 0;
    int64_t missing = 0;  // below 0: it has more than it is to have
    bool operator<(const Need& other) const {
      return std::tie(have, model) < std::tie(other.have, other.model);
    }
  };

  Need NeedOf(size_t index) const {
    const PlacementModel& model = models_[index];
    Need need{.model = index};
    int64_t ready = 0;
    int64_t possible = 0;
    for (const PlacementWorker& worker : workers_) {
      if (!worker.takes_work) continue;
      if (model.pool.empty() || worker.pool == model.pool) ++possible;
      const PlacementWorker::Held* held = HeldBy(worker, model.name);
      if (held == nullptr) continue;
      ready += held->phase == Phase::kReady ? 1 : 0;
      need.have += held->phase == Phase::kReady || held->phase == Phase::kComing ? 1 : 0;
    }
    const int64_t wanted = model.replicas < 0 ? possible : model.replicas;
    // What is still coming is waited for before anything goes.
    need.missing = ready > wanted ? wanted - ready : std::max<int64_t>(0, wanted - need.have);
    return need;
  }

  void UnloadEverywhere(const std::string& model) {
    for (size_t w = 0; w < workers_.size(); ++w) {
      const PlacementWorker::Held* held = HeldBy(workers_[w], model);
      if (held == nullptr || held->phase == Phase::kComing || held->phase == Phase::kGoing)
        continue;
      plan_.orders.push_back({w, model, /*load=*/false});
    }
  }

  // From where memory is shortest.
  void Trim(const PlacementModel& model, int64_t count) {
    std::vector<size_t> having;
    for (size_t w = 0; w < workers_.size(); ++w) {
      const PlacementWorker::Held* held = HeldBy(workers_[w], model.name);
      if (workers_[w].takes_work && held != nullptr && held->phase == Phase::kReady) {
        having.push_back(w);
      }
    }
    std::sort(having.begin(), having.end(), [&](size_t a, size_t b) {
      return std::pair(workers_[a].free_memory_bytes, a) <
             std::pair(workers_[b].free_memory_bytes, b);
    });
    for (int64_t i = 0; i < count; ++i) {
      plan_.orders.push_back({having[i], model.name, /*load=*/false});
    }
  }

  // Nothing: no worker may; with waits_ set, one may once another load is over, with failed_ set,
  // once what makes it fail there is mended.
  std::optional<size_t> PlaceFor(const PlacementModel& model) {
    waits_ = false;
    failed_ = false;
    std::optional<size_t> best;
    std::tuple<size_t, int64_t> best_rank;
    for (size_t w = 0; w < workers_.size(); ++w) {
      const PlacementWorker& worker = workers_[w];
      if (!worker.takes_work || (!model.pool.empty() && worker.pool != model.pool)) continue;
      const PlacementWorker::Held* held = HeldBy(worker, model.name);
      if (held != nullptr && held->phase == Phase::kGoing && !loading_[w]) return w;  // it stays
      if (held != nullptr && !(held->phase == Phase::kFailed && held->try_again)) {
        failed_ = failed_ || (held->phase == Phase::kFailed && !held->no_room);
        continue;
      }
      if (worker.free_memory_bytes < model.memory_bytes) continue;
      if (loading_[w] || loads_left_ <= 0) {
        waits_ = true;
        continue;
      }
      const std::tuple rank(worker.held.size(), worker.free_memory_bytes);
      if (best && best_rank <= rank) continue;
      best = w;
      best_rank = rank;
    }
    return best;
  }

  void Order(size_t worker, const PlacementModel& model) {
    plan_.orders.push_back({worker, model.name, /*load=*/true});
    loading_[worker] = true;
    const PlacementWorker::Held* held = HeldBy(workers_[worker], model.name);
    if (held == nullptr || held->phase != Phase::kGoing) --loads_left_;
  }

  const std::vector<PlacementModel>& models_;
  const std::vector<PlacementWorker>& workers_;
  int loads_left_;
  std::vector<bool> loading_;  // by worker
  bool waits_ = false;
  bool failed_ = false;
  PlacementPlan plan_;
};

}  // namespace

PlacementPlan PlanPlacement(const std::vector<PlacementModel>& models,
                            const std::vector<PlacementWorker>& workers, int loads_at_once) {
  return Planner(models, workers, loads_at_once).Plan();
}

}  // namespace fathom::master
