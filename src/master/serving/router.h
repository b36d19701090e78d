#pragma once

// Which worker runs a request: a pure function of the fleet's snapshot and of what this master has
// sent where. Least loaded first, within the credit each worker grants.

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "master/fleet/fleet.h"

namespace fathom::master {

// What this master has on a worker, by its own count: the snapshot's may lag behind.
struct WorkerLoad {
  int64_t cost = 0;  // tokens
  int32_t requests = 0;
  int64_t avoid_until_ns = 0;  // it refused work; monotonic
};

struct WorkerKeyLess {
  bool operator()(const WorkerKey& a, const WorkerKey& b) const {
    return a.id != b.id ? a.id < b.id : a.incarnation < b.incarnation;
  }
};
using LoadTable = std::map<WorkerKey, WorkerLoad, WorkerKeyLess>;

struct RouteRequest {
  std::string_view model;
  std::string_view config_digest;     // of the master's model; empty: any
  std::string_view tokenizer_digest;  // likewise
  int64_t cost = 0;
  int64_t now_ns = 0;
};

// Why nothing was picked, from the farthest to the nearest.
enum class RouteObstacle { kNone, kNoWorker, kModelNotLoaded, kModelDiffers, kNotReady, kBusy };

std::string_view Describe(RouteObstacle obstacle);

struct Route {
  std::optional<size_t> worker;  // index into the snapshot
  RouteObstacle obstacle = RouteObstacle::kNone;
};

// A request dearer than a worker's whole credit may still have an idle worker for itself: the
// worker has the last word.
Route PickWorker(const FleetSnapshot& fleet, const LoadTable& loads, const RouteRequest& request);

}  // namespace fathom::master
