#pragma once

// Where requests wait for a worker and leave in fair order. It pairs the front of the queue with
// what the router picks, and keeps the count of what this master has on each worker. Any thread may
// call it; grants are given on the caller's thread, without a lock held, and must only post.

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "master/fleet/fleet.h"
#include "master/models/catalog.h"
#include "master/serving/fair_queue.h"
#include "master/serving/fleet_router.h"
#include "master/serving/prompt_blocks.h"
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
  // It has not crashed its worker after all: the worker may get other work again.
  void ClearSuspect();
  // Of the prompt, that the worker is expected to hold.
  int32_t cached_tokens() const { return decision_.cached_tokens; }

 private:
  friend class Dispatcher;
  Placement(Dispatcher* dispatcher, WorkerKey worker, const FleetRouter::Decision& decision,
            int64_t cost, bool suspect)
      : dispatcher_(dispatcher),
        worker_(std::move(worker)),
        decision_(decision),
        cost_(cost),
        suspect_(suspect) {}

  Dispatcher* dispatcher_ = nullptr;
  WorkerKey worker_;
  FleetRouter::Decision decision_;
  int64_t cost_ = 0;
  bool suspect_ = false;
};

class Dispatcher {
 public:
  using Grant = std::function<void(Placement)>;
  struct Wanted {
    ModelPtr model;
    uint64_t tenant_hash = 0;
    int32_t tenant_weight = 1;
    int32_t priority = 0;
    int64_t cost = 0;      // tokens
    bool again = false;    // it was placed before: it goes first and is not charged again
    bool suspect = false;  // it may crash its worker, which gets nothing new while it does not
    PromptBlocks prompt;   // its tokens outlive the wait
    Grant grant;
  };

 private:
  // Requests for one model: they wait for each other's workers, and for nobody else's.
  struct Lane {
    FairQueue<Wanted> queue;
    int64_t cost = 0;
    int64_t told_cost = 0;  // to the fleet
  };

 public:
  // Names what waits until it leaves.
  struct Handle {
    Lane* lane = nullptr;
    FairQueue<Wanted>::Handle entry = 0;
  };

  // `seed` is for the draws between equal workers.
  Dispatcher(Fleet* fleet, const Clock* clock, uint64_t seed);
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // `grant` is called once, unless Remove comes first. Names the prompt's blocks on the caller's
  // thread: 0.1 us a token.
  Handle Enqueue(Wanted wanted);
  void Remove(Handle handle);
  // A place for a request that was claimed from that worker, without waiting. Empty when the worker
  // is not there any more.
  Placement Adopt(const WorkerKey& worker, const ServedModelInfo& model, int64_t cost);
  // Of what was charged when it was enqueued, so much was not used.
  void Refund(const std::string& model, uint64_t tenant_hash, int32_t tenant_weight,
              int32_t priority, int64_t cost);
  // That worker refused: no work for it until then. Call Pump when the time is over.
  void Avoid(const WorkerKey& worker, absl::Duration duration);
  // That worker has not taken on what was sent to it then: no work for it for a moment, or until it
  // is heard again. False, and nothing changes, where nobody else could take such a request now.
  bool AvoidSilent(const WorkerKey& worker, const ServedModelInfo& model, int64_t cost,
                   int64_t since_ns, absl::Duration duration);
  // A worker refused or time has passed: look again.
  void Pump();
  // Takes the fleet's news in, then looks again. The owner connects it to Fleet::OnChange:
  // decisions never wait for a snapshot to be made.
  void OnFleetChange(FleetNews news);
  // A worker tells of its prefix cache.
  void OnCacheUpdate(const WorkerKey& worker, const CacheUpdate& update);

  // What a request for this model waits for.
  RouteObstacle Obstacle(const ServedModelInfo& model);
  size_t queue_length() const;
  // Of one model.
  size_t queue_length(const std::string& model) const;
  // For which requests wait.
  std::set<std::string> awaited_models() const;

 private:
  friend class Placement;
  using Grants = std::vector<std::pair<Grant, Placement>>;

  std::optional<WorkerSlot> SlotOf(const WorkerKey& worker);
  void Release(const FleetRouter::Decision& decision, int64_t cost, bool suspect);
  void ClearSuspect(WorkerSlot slot);
  // mutex_ is held. What can be placed now; given out by GiveOut without it.
  Grants Place();
  void PlaceFrom(const std::string& name, Lane& lane, Grants& grants);
  static void GiveOut(Grants grants);

  Fleet* const fleet_;
  const Clock* const clock_;
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  std::map<std::string, Lane> lanes_;  // by model; a lane stays
  FleetRouter router_;
  int64_t refresh_at_ns_ = 0;  // not before, while nothing waits
};

}  // namespace fathom::master
