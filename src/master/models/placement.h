#pragma once

// Which worker is to load or unload which model: a pure function of what the catalogue wants and of
// what workers have, asked again and again. It gives every model its replicas, those without any
// first, on workers of its pool that have room: where the fewest models are, and of those where it
// leaves the least room unused. Nothing is unloaded to make room for something else.
//
// Invariants: no worker gets more than its free memory holds, nor a second load while one is under
// way; no more than `loads_at_once` are under way in all, for they share the storage; a model that
// has its replicas gets no order.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fathom::master {

struct PlacementModel {
  std::string name;
  std::string pool;          // empty: any worker
  int64_t memory_bytes = 0;  // it takes
  int64_t replicas = 1;      // workers that are to have it; below 0: all that have room
  bool wanted = true;        // false: it is to go everywhere
};

struct PlacementWorker {
  enum class Phase : uint8_t { kComing, kReady, kGoing, kFailed };
  struct Held {
    std::string model;
    Phase phase = Phase::kReady;
    bool try_again = false;  // kFailed, long enough ago
    bool no_room = false;    // kFailed for want of memory
  };
  std::string pool;
  bool takes_work = true;
  int64_t free_memory_bytes = 0;  // what is coming has not taken its part of it
  std::vector<Held> held;         // models of the catalogue and others
};

struct PlacementOrder {
  size_t worker = 0;  // index
  std::string model;
  bool load = true;  // false: unload
  bool operator==(const PlacementOrder&) const = default;
};

struct PlacementPlan {
  std::vector<PlacementOrder> orders;
  // Wanted models, by index, that lack workers for want of room and of nothing else.
  std::vector<size_t> without_room;
};

PlacementPlan PlanPlacement(const std::vector<PlacementModel>& models,
                            const std::vector<PlacementWorker>& workers, int loads_at_once);

}  // namespace fathom::master
