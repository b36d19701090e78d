#pragma once

// Between the link, which speaks with masters, and the rest of the worker, which has the models.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "fathom/v1/link.pb.h"
#include "worker/engine/cache_news.h"
#include "worker/engine/request.h"

namespace fathom::worker {

// What the link needs of an engine. The functions are called on the link thread and must not block.
struct EnginePort {
  std::function<absl::Status(EngineRequest)> submit;
  std::function<void(const std::string& id, uint32_t attempt, std::vector<int32_t> choices)> cancel;
  std::function<EngineStats()> stats;
  std::function<CacheChanges()> cache_changes;
};

// How a model fares now. One that serves comes with its engine, which the link keeps until the
// model is gone.
struct ModelNews {
  v1::ModelState state;
  std::optional<EnginePort> engine;  // with READY, unless the engine is that of before
  int64_t capacity = 0;              // with it: token cost that masters may have in flight, in sum
};

// What the link needs of the worker. The functions are called on the link thread and must not
// block.
struct WorkerPort {
  // A master with the right to say so wants ...
  std::function<void()> leave;                           // the worker to go
  std::function<void(const v1::Load&)> load;             // a model
  std::function<void(const std::string& model)> unload;  // to be rid of one
  // Every few moments: `in_use` tells whether a model has requests, or some that wait for it.
  std::function<void(int64_t now_ns, const std::function<bool(const std::string& model)>& in_use)>
      look;
  std::function<int64_t()> free_memory;  // for further models, in bytes
};

}  // namespace fathom::worker
