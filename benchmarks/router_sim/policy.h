#pragma once

// Ways to choose a worker: the master's router, and what it is compared with. All of them hear what
// the router hears, and know exactly what they sent and what has ended.
//
// Thread safety: none.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/siphash.h"
#include "master/fleet/fleet.h"
#include "master/serving/fleet_router.h"
#include "master/serving/prompt_blocks.h"

namespace fathom::router_sim {

struct Pick {
  size_t worker = 0;
  int32_t predicted_tokens = 0;  // cached, where the policy knows
};

class Policy {
 public:
  virtual ~Policy() = default;
  // The request goes to the worker it names.
  virtual Pick Send(master::PromptBlocks* prompt, int64_t cost, int64_t now_ns) = 0;
  virtual void OnEnd(size_t worker, int64_t cost) = 0;
  virtual void OnHeartbeat(const std::shared_ptr<const master::FleetSnapshot>& /*fleet*/) {}
  virtual void OnCacheChanges(size_t /*worker*/, const std::vector<Hash128>& /*stored*/,
                              const std::vector<Hash128>& /*evicted*/) {}
};

inline constexpr std::string_view kPolicies[] = {
    "router", "round-robin", "least-load", "power-of-two", "prefix-affinity", "affinity-or-load"};

// Workers are named by their number in decimal and serve `model`. INVALID_ARGUMENT for other names.
absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(std::string_view name, size_t num_workers,
                                                   const master::BlockNaming& naming,
                                                   std::string model, uint64_t seed);

}  // namespace fathom::router_sim
