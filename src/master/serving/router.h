#pragma once

// Which worker runs a request: a pure function of what the fleet tells, of what this master has
// sent where and of the prefixes that workers hold. It picks, within the credit each worker grants,
// the one that is expected to give the first token soonest:
//
//   (tokens queued there + tokens to compute) / its prefill rate + its steps + the wait for KV
//   blocks
//
// where tokens of the prompt's cached prefix are not to be computed. What holds up others as well
// counts more than once: tokens to compute, and the length of the worker's steps. Among workers
// that are about equal, as all are where nothing is known, two are drawn and the less loaded one is
// taken: many masters with the same news do not all pick the same worker.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "master/serving/prefix_index.h"

namespace fathom::master {

// Why nothing was picked, from the farthest to the nearest.
enum class RouteObstacle : uint8_t {
  kNone,
  kNoWorker,
  kModelNotLoaded,
  kModelDiffers,
  kNotReady,
  kBusy
};

std::string_view Describe(RouteObstacle obstacle);

// A worker that has the model, as its last heartbeat had it. Compact: a decision reads all of them.
struct RouteCandidate {
  WorkerSlot slot = 0;
  RouteObstacle obstacle = RouteObstacle::kNone;  // kModelDiffers or kNotReady: not now
  int32_t waiting = 0;
  int32_t free_blocks = 0;
  int32_t total_blocks = 0;  // 0: not told
  int32_t block_tokens = 0;
  float prefill_tokens_per_second = 0;  // 0: not known
  float tokens_per_second = 0;
  float step_seconds = 0;  // of steps that only decode; 0: nothing runs there
  int64_t credit = 0;
  int64_t queued_tokens = 0;
  int64_t heard_ns = 0;
};

// All candidates for one model.
struct RouteTable {
  RouteObstacle nothing = RouteObstacle::kNoWorker;  // why there is no candidate
  std::vector<RouteCandidate> candidates;
};

// What this master has on a worker, by its own count: heartbeats lag behind.
struct WorkerLoad {
  int64_t cost = 0;  // tokens
  int32_t requests = 0;
  int64_t unreported_tokens = 0;  // to compute, sent since the last heartbeat
  int32_t suspects = 0;           // 0 or 1: a request that may crash it; it gets nothing new then
  int64_t avoid_until_ns = 0;     // it refused work; monotonic
};

struct RouteRequest {
  int64_t cost = 0;
  int32_t prompt_tokens = 0;
  std::span<const PrefixMatch> matches;  // of workers that hold some of the prompt
  uint64_t draw = 0;                     // random
  int64_t now_ns = 0;
};

struct Route {
  const RouteCandidate* candidate = nullptr;  // of the table; null: none
  int32_t cached_tokens = 0;                  // of the prompt, that it is expected to hold
  RouteObstacle obstacle = RouteObstacle::kNone;
};

// `loads` is indexed by slot and covers all candidates. A request dearer than a worker's whole
// credit may still have an idle worker for itself: the worker has the last word.
Route PickWorker(const RouteTable& table, std::span<const WorkerLoad> loads,
                 const RouteRequest& request);

}  // namespace fathom::master
