#include "worker/engine/fair_queue.h"

#include <algorithm>

#include "common/check.h"

namespace fathom::worker {

namespace {

// Virtual time in parts of a token, so that weights divide it.
constexpr int64_t kUnit = 1024;

}  // namespace

void FairQueue::Push(RequestState* request, int32_t priority, uint64_t tenant, int64_t cost,
                     int32_t weight) {
  Lane& lane = lanes_[priority];
  int64_t& finish = lane.tenant_finish[tenant];
  const Entry entry{priority, std::max(lane.now, finish), arrivals_++, request};
  finish = entry.start + cost * kUnit / std::max(1, weight);
  ++lane.size;
  entries_.insert(entry);
  const bool added = index_.emplace(request, entry).second;
  FATHOM_CHECK(added, "a request waits twice");
}

RequestState* FairQueue::Pop() {
  if (entries_.empty()) return nullptr;
  const Entry entry = *entries_.begin();
  lanes_[entry.priority].now = entry.start;
  Forget(entry);
  return entry.request;
}

void FairQueue::Erase(RequestState* request) {
  const auto it = index_.find(request);
  if (it != index_.end()) Forget(Entry(it->second));
}

// An empty lane starts anew, so that tenants do not pile up.
void FairQueue::Forget(const Entry& entry) {
  const auto lane = lanes_.find(entry.priority);
  if (--lane->second.size == 0) lanes_.erase(lane);
  index_.erase(entry.request);
  entries_.erase(entry);
}

}  // namespace fathom::worker
