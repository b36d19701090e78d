#pragma once

// Where requests wait for a worker and leave in fair order. It pairs the front of the queue with
// what the router picks, and keeps the count of what this master has on each worker. Any thread may
// call it; grants are given on the caller's thread, without a lock held, and must only post.

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "master/fleet/fleet.h"
#include "master/models/catalog.h"
#include "master/serving/fair_queue.h"
#include "master/serving/router.h"

namespace fathom::master {

class Dispatcher;

// A place on a worker, given back when it goes. Must not outlive its Dispatcher.
class Placement {
 public:
  Placement() = default;
  Placement(Placement&& other) noexcept { *this = std::move(other); }
  Placement& operator=(Placement&& other) noexcept;
  ~Placement() { Reset(); }
  void Reset();

  explicit operator bool() const { return dispatcher_ != nullptr; }
  const WorkerKey& worker() const { return worker_; }

 private:
  friend class Dispatcher;
  Placement(Dispatcher* dispatcher, WorkerKey worker, int64_t cost)
      : dispatcher_(dispatcher), worker_(std::move(worker)), cost_(cost) {}

  Dispatcher* dispatcher_ = nullptr;
  WorkerKey worker_;
  int64_t cost_ = 0;
};

class Dispatcher {
 public:
  using Grant = std::function<void(Placement)>;
  using Handle = uint64_t;
  struct Wanted {
    ModelPtr model;
    uint64_t tenant_hash = 0;
    int32_t priority = 0;
    int64_t cost = 0;  // tokens
    Grant grant;
  };

  Dispatcher(Fleet* fleet, const Clock* clock) : fleet_(fleet), clock_(clock) {}
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // `grant` is called once, unless Remove comes first.
  Handle Enqueue(Wanted wanted);
  void Remove(Handle handle);
  // That worker refused: no work for it until then. Call Pump when the time is over.
  void Avoid(const WorkerKey& worker, absl::Duration duration);
  // Something changed: look again.
  void Pump();

  // What a request for this model waits for.
  RouteObstacle Obstacle(const ServedModelInfo& model) const;
  size_t queue_length() const;

 private:
  friend class Placement;
  void Release(const WorkerKey& worker, int64_t cost);
  RouteRequest RouteFor(const ServedModelInfo& model, int64_t cost) const;

  Fleet* const fleet_;
  const Clock* const clock_;
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  FairQueue<Wanted> queue_;
  int64_t queued_cost_ = 0;
  LoadTable loads_;
};

}  // namespace fathom::master
