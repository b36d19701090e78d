#pragma once

// The order in which waiting requests leave: by priority, then fairly between tenants. Start-time
// fair queueing: an entry's tag is where its tenant's virtual time stands when it comes; entries
// leave by tag, so tenants that wait share the tokens alike however many requests each has sent.
// Within a tenant and priority: first come, first served. What was charged and then not used is
// given back; what has been served before and comes again goes first and costs nothing. Every
// operation is O(log n). Not thread safe.

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace fathom::master {

template <typename Item>
class FairQueue {
 public:
  // Names the entry until it leaves.
  using Handle = uint64_t;

  // A tenant of weight 2 gets twice the tokens of one of weight 1.
  Handle Push(uint64_t tenant, int32_t weight, int32_t priority, int64_t cost, Item item) {
    Level& level = levels_[priority];
    auto& finish = level.tenant_finish[tenant];
    const double start = finish > level.now ? finish : level.now;
    finish = start + Charge(cost, weight);
    return Insert(priority, start, std::move(item));
  }

  // Before all others of its priority, and free of charge.
  Handle PushAgain(int32_t priority, Item item) {
    return Insert(priority, kAhead, std::move(item));
  }

  // Tokens that were charged to a tenant were not used after all.
  void Refund(uint64_t tenant, int32_t weight, int32_t priority, int64_t cost) {
    const auto level = levels_.find(priority);
    if (level == levels_.end()) return;
    const auto finish = level->second.tenant_finish.find(tenant);
    if (finish != level->second.tenant_finish.end()) finish->second -= Charge(cost, weight);
  }

  bool empty() const { return order_.empty(); }
  size_t size() const { return order_.size(); }

  // The one that leaves next. REQUIRES: !empty().
  Item& Front() { return entries_.at(std::get<2>(*order_.begin())).item; }

  Item Pop() {
    const Key key = *order_.begin();
    Level& level = levels_[std::get<0>(key)];
    level.now = std::max(level.now, std::get<1>(key));
    Item item = Take(std::get<2>(key));
    // A tenant whose time has passed starts from now like a new one: nothing need be kept of it.
    if (level.tenant_finish.size() > kTenantsKept) {
      std::erase_if(level.tenant_finish,
                    [&](const auto& tenant) { return tenant.second <= level.now; });
    }
    return item;
  }

  // Nothing when it left before.
  std::optional<Item> Remove(Handle handle) {
    if (!entries_.contains(handle)) return std::nullopt;
    return Take(handle);
  }

 private:
  static constexpr size_t kTenantsKept = 1024;
  using Key = std::tuple<int32_t, double, Handle>;  // priority, start tag, arrival
  struct Entry {
    Key key;
    Item item;
  };
  struct Level {
    double now = 0;                                      // the start tag that left last
    std::unordered_map<uint64_t, double> tenant_finish;  // where each tenant's time stands
  };

  static constexpr double kAhead = -1;

  static double Charge(int64_t cost, int32_t weight) {
    return static_cast<double>(cost) / std::max(1, weight);
  }

  Handle Insert(int32_t priority, double start, Item item) {
    const Handle handle = next_handle_++;
    const Key key{priority, start, handle};
    order_.insert(key);
    entries_.emplace(handle, Entry{key, std::move(item)});
    return handle;
  }

  Item Take(Handle handle) {
    auto node = entries_.extract(handle);
    order_.erase(node.mapped().key);
    return std::move(node.mapped().item);
  }

  Handle next_handle_ = 1;
  std::set<Key> order_;
  std::unordered_map<Handle, Entry> entries_;
  std::map<int32_t, Level> levels_;  // priorities are few: 0-9
};

}  // namespace fathom::master
