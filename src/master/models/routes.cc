#include "master/models/routes.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/siphash.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

constexpr size_t kNameBytesMax = 128;
constexpr size_t kTargetsMax = 8;
constexpr int32_t kWhole = 100;
// No secret: every master draws alike.
constexpr SipKey kDrawKey = {0x66617468'6f6d2072ULL, 0x6f757465'20647261ULL};

template <typename T>
std::optional<T> Number(std::string_view text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool IsNameChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-' || c == '/' || c == ':';
}

int32_t WeightOf(const RouteTargets& targets) {
  return std::accumulate(targets.begin(), targets.end(), 0,
                         [](int32_t sum, const RouteTarget& t) { return sum + t.weight; });
}

}  // namespace

absl::Status CheckRouteName(std::string_view name) {
  if (!name.empty() && name.size() <= kNameBytesMax &&
      std::all_of(name.begin(), name.end(), IsNameChar)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", ToAbsl(name.substr(0, kNameBytesMax)),
                   "' is no name: 1 to 128 letters, digits, '.', '_', '-', '/' and ':'"));
}

std::string ModelNameOf(std::string_view name, int64_t version) {
  return version == 0 ? std::string(name) : absl::StrCat(ToAbsl(name), "@", version);
}

VersionedName SplitModelName(std::string_view model) {
  const size_t at = model.rfind('@');
  if (at == std::string_view::npos) return {.name = std::string(model)};
  const std::optional<int64_t> version = Number<int64_t>(model.substr(at + 1));
  if (!version || *version < 1) return {.name = std::string(model)};
  return {.name = std::string(model.substr(0, at)), .version = *version};
}

std::string FormatTargets(const RouteTargets& targets) {
  return absl::StrJoin(targets, ",", [](std::string* out, const RouteTarget& target) {
    absl::StrAppend(out, target.model, "=", target.weight);
  });
}

absl::StatusOr<RouteTargets> ParseTargets(std::string_view text) {
  RouteTargets targets;
  for (const absl::string_view part : absl::StrSplit(ToAbsl(text), ',')) {
    const size_t equals = part.rfind('=');
    const std::optional<int32_t> weight = equals == absl::string_view::npos
                                              ? std::nullopt
                                              : Number<int32_t>(ToStd(part.substr(equals + 1)));
    if (!weight) {
      return absl::InvalidArgumentError(absl::StrCat("'", part, "' is no target of a route"));
    }
    targets.push_back({.model = std::string(part.substr(0, equals)), .weight = *weight});
  }
  RETURN_IF_ERROR(CheckTargets(targets));
  return targets;
}

absl::Status CheckTargets(const RouteTargets& targets) {
  if (targets.empty() || targets.size() > kTargetsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a route has 1 to ", kTargetsMax, " targets, not ", targets.size()));
  }
  for (const RouteTarget& target : targets) {
    const VersionedName name = SplitModelName(target.model);
    RETURN_IF_ERROR(CheckRouteName(name.name));
    if (target.weight < 1 || target.weight > kWhole) {
      return absl::InvalidArgumentError(
          absl::StrCat("the weight of ", target.model, " is not 1 to 100 percent"));
    }
    if (std::count_if(targets.begin(), targets.end(),
                      [&](const RouteTarget& t) { return t.model == target.model; }) > 1) {
      return absl::InvalidArgumentError(absl::StrCat(target.model, " is there twice"));
    }
  }
  if (const int32_t sum = WeightOf(targets); sum != kWhole) {
    return absl::InvalidArgumentError(absl::StrCat("the weights make ", sum, ", not 100 percent"));
  }
  return absl::OkStatus();
}

absl::StatusOr<RouteTargets> WithCanary(const RouteTargets& targets, const std::string& model,
                                        int32_t percent) {
  if (percent < 1 || percent >= kWhole) {
    return absl::InvalidArgumentError("a canary gets 1 to 99 percent");
  }
  RouteTargets rest = targets;
  std::erase_if(rest, [&](const RouteTarget& target) { return target.model == model; });
  if (rest.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("all requests go to ", model, " already: there is nothing beside it"));
  }
  const int32_t left = kWhole - percent;
  if (left < static_cast<int32_t>(rest.size())) {
    return absl::InvalidArgumentError("that leaves less than a percent for some target");
  }
  // Rounded down to at least one; what rounding leaves over, the largest gets, or gives.
  const int32_t before = WeightOf(rest);
  for (RouteTarget& target : rest) target.weight = std::max(1, target.weight * left / before);
  const auto largest = std::max_element(
      rest.begin(), rest.end(),
      [](const RouteTarget& a, const RouteTarget& b) { return a.weight < b.weight; });
  largest->weight += left - WeightOf(rest);
  rest.push_back({.model = model, .weight = percent});
  return rest;
}

RouteTargets Replace(const RouteTargets& targets, const std::string& model,
                     const std::string& other) {
  RouteTargets out;
  for (const RouteTarget& target : targets) {
    const std::string& name = target.model == model ? other : target.model;
    const auto there =
        std::find_if(out.begin(), out.end(), [&](const RouteTarget& t) { return t.model == name; });
    if (there == out.end()) {
      out.push_back({.model = name, .weight = target.weight});
    } else {
      there->weight += target.weight;
    }
  }
  return out;
}

const RouteTarget& DrawTarget(const RouteTargets& targets, std::string_view request_id) {
  auto point = static_cast<int32_t>(SipHash128(kDrawKey, std::as_bytes(std::span(request_id))).lo %
                                    uint64_t{kWhole});
  for (const RouteTarget& target : targets) {
    point -= target.weight;
    if (point < 0) return target;
  }
  return targets.back();
}

const RouteTarget& MainTarget(const RouteTargets& targets) {
  return *std::max_element(
      targets.begin(), targets.end(),
      [](const RouteTarget& a, const RouteTarget& b) { return a.weight < b.weight; });
}

}  // namespace fathom::master
