#pragma once

// Names of models and where requests for a name go. Pure.
//
//   model   = name ["@" version]      one version of a model; without: one of the configuration
//   route   = a name that requests may ask for -> models with weights in percent, 100 in all
//
// A route is what others call an alias; a canary is a route with two targets.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fathom::master {

struct RouteTarget {
  std::string model;
  int32_t weight = 0;  // percent, 1 to 100
  bool operator==(const RouteTarget&) const = default;
};
using RouteTargets = std::vector<RouteTarget>;

// 1 to 128 letters, digits, ".", "_", "-", "/" and ":".
absl::Status CheckRouteName(std::string_view name);

std::string ModelNameOf(std::string_view name, int64_t version);
struct VersionedName {
  std::string name;
  int64_t version = 0;  // 0: none
};
VersionedName SplitModelName(std::string_view model);

// "chat@7=95,chat@8=5". Format is of what CheckTargets lets pass.
std::string FormatTargets(const RouteTargets& targets);
absl::StatusOr<RouteTargets> ParseTargets(std::string_view text);
// INVALID_ARGUMENT unless they are 1 to 8 different models whose weights make 100.
absl::Status CheckTargets(const RouteTargets& targets);

// `percent` (1 to 99) of the requests go to `model`; the others share the rest as they shared all
// before. FAILED_PRECONDITION when the route has no other.
absl::StatusOr<RouteTargets> WithCanary(const RouteTargets& targets, const std::string& model,
                                        int32_t percent);
// `model`'s place is `other`'s; where both have one, their weights are added.
RouteTargets Replace(const RouteTargets& targets, const std::string& model,
                     const std::string& other);

// Which target a request gets: the same for the same id at every master, each as often as its
// weight says. REQUIRES: targets are not empty.
const RouteTarget& DrawTarget(const RouteTargets& targets, std::string_view request_id);
// That of the greatest weight, the first of equals.
const RouteTarget& MainTarget(const RouteTargets& targets);

}  // namespace fathom::master
