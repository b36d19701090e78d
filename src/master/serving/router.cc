#include "master/serving/router.h"

#include <algorithm>
#include <tuple>

namespace fathom::master {
namespace {

bool Same(std::string_view wanted, std::string_view has) { return wanted.empty() || wanted == has; }

RouteObstacle ObstacleOf(const WorkerInfo& worker, const WorkerLoad& load,
                         const RouteRequest& request) {
  const auto model = std::find_if(worker.models.begin(), worker.models.end(),
                                  [&](const ServedModel& m) { return m.name == request.model; });
  if (model == worker.models.end()) return RouteObstacle::kModelNotLoaded;
  if (!Same(request.config_digest, model->config_digest) ||
      !Same(request.tokenizer_digest, model->tokenizer_digest)) {
    return RouteObstacle::kModelDiffers;
  }
  if (worker.state != WorkerState::kReady) return RouteObstacle::kNotReady;
  if (request.now_ns < load.avoid_until_ns) return RouteObstacle::kBusy;
  const bool fits = load.cost + request.cost <= worker.credit;
  const bool alone = load.requests == 0 && worker.credit > 0;
  return fits || alone ? RouteObstacle::kNone : RouteObstacle::kBusy;
}

}  // namespace

std::string_view Describe(RouteObstacle obstacle) {
  switch (obstacle) {
    case RouteObstacle::kNone:
      return "a worker is free";
    case RouteObstacle::kNoWorker:
      return "no worker is connected";
    case RouteObstacle::kModelNotLoaded:
      return "no connected worker has the model loaded";
    case RouteObstacle::kModelDiffers:
      return "the workers have another version of the model than the master";
    case RouteObstacle::kNotReady:
      return "no worker is ready yet";
    case RouteObstacle::kBusy:
      return "all workers are busy";
  }
  return "unknown";
}

Route PickWorker(const FleetSnapshot& fleet, const LoadTable& loads, const RouteRequest& request) {
  using Score = std::tuple<double, int32_t>;  // share of the credit in use, then length of queue
  Route best{.worker = std::nullopt, .obstacle = RouteObstacle::kNoWorker};
  Score best_score;
  for (size_t i = 0; i < fleet.workers.size(); ++i) {
    const WorkerInfo& worker = fleet.workers[i];
    const auto found = loads.find(worker.key);
    const WorkerLoad load = found == loads.end() ? WorkerLoad{} : found->second;
    const RouteObstacle obstacle = ObstacleOf(worker, load, request);
    if (obstacle != RouteObstacle::kNone) {
      if (!best.worker) best.obstacle = std::max(best.obstacle, obstacle);
      continue;
    }
    const double share =
        static_cast<double>(load.cost) / static_cast<double>(std::max<int64_t>(worker.credit, 1));
    const Score score(share, worker.waiting + load.requests);
    if (!best.worker || score < best_score) {
      best = {.worker = i, .obstacle = RouteObstacle::kNone};
      best_score = score;
    }
  }
  return best;
}

}  // namespace fathom::master
