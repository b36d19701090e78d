#pragma once

// The order in which waiting requests are let in: by priority, and within one fair between tenants
// by cost (start-time fair queueing, Goyal, Vin and Cheng 1996): a tenant that sends a thousand
// requests does not delay another's first. Thread safety: none.

#include <cstddef>
#include <cstdint>
#include <set>

#include "absl/container/flat_hash_map.h"

namespace fathom::worker {

struct RequestState;

class FairQueue {
 public:
  // `cost` in tokens; a tenant of weight 2 gets twice the tokens of one of weight 1. A request is
  // in the queue once at most.
  void Push(RequestState* request, int32_t priority, uint64_t tenant, int64_t cost,
            int32_t weight = 1);
  // nullptr when empty.
  RequestState* Pop();
  // Of what Pop would give; INT32_MAX when empty.
  int32_t TopPriority() const { return entries_.empty() ? INT32_MAX : entries_.begin()->priority; }
  // Does nothing when it is not here.
  void Erase(RequestState* request);
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    int32_t priority;
    int64_t start;  // virtual time at which its tenant's turn comes
    uint64_t arrival;
    RequestState* request;
    bool operator<(const Entry& other) const {
      if (priority != other.priority) return priority < other.priority;
      if (start != other.start) return start < other.start;
      return arrival < other.arrival;
    }
  };
  // Virtual time of one priority.
  struct Lane {
    int64_t now = 0;
    int32_t size = 0;
    absl::flat_hash_map<uint64_t, int64_t> tenant_finish;
  };
  void Forget(const Entry& entry);

  std::set<Entry> entries_;
  absl::flat_hash_map<RequestState*, Entry> index_;
  absl::flat_hash_map<int32_t, Lane> lanes_;
  uint64_t arrivals_ = 0;
};

}  // namespace fathom::worker
