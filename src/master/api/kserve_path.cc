#include "master/api/kserve_path.h"

#include <optional>
#include <utility>

#include "master/api/http_head.h"

namespace fathom::master {
namespace {

constexpr std::string_view kModels = "/models/";
constexpr std::string_view kRepositoryModels = "/repository/models/";

constexpr std::pair<std::string_view, KservePlace> kFixed[] = {
    {"", KservePlace::kServer},
    {"/", KservePlace::kServer},
    {"/health/live", KservePlace::kLive},
    {"/health/ready", KservePlace::kReady},
    {"/models/stats", KservePlace::kStats},
    {"/repository/index", KservePlace::kIndex},
};
constexpr std::pair<std::string_view, KservePlace> kVerbs[] = {
    {"/ready", KservePlace::kModelReady},  {"/config", KservePlace::kConfig},
    {"/stats", KservePlace::kStats},       {"/infer", KservePlace::kInfer},
    {"/generate", KservePlace::kGenerate}, {"/generate_stream", KservePlace::kGenerateStream},
};
constexpr std::pair<std::string_view, KservePlace> kRepositoryVerbs[] = {
    {"/load", KservePlace::kLoad},
    {"/unload", KservePlace::kUnload},
};

// Takes a verb off the end.
template <size_t kSize>
std::optional<KservePlace> TakeVerb(const std::pair<std::string_view, KservePlace> (&verbs)[kSize],
                                    std::string_view& path) {
  for (const auto& [verb, place] : verbs) {
    if (path.ends_with(verb)) {
      path.remove_suffix(verb.size());
      return place;
    }
  }
  return std::nullopt;
}

// Takes "/versions/V" off the end.
std::string TakeVersion(std::string_view& path) {
  constexpr std::string_view kVersions = "/versions";
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return {};
  const std::string_view before = path.substr(0, slash);
  if (!before.ends_with(kVersions)) return {};
  std::string version = DecodePath(path.substr(slash + 1));
  path = before.substr(0, before.size() - kVersions.size());
  return version;
}

}  // namespace

// From the end to the front, since names of models may hold slashes.
KservePath ParseKservePath(std::string_view path) {
  if (!IsKservePath(path)) return {};
  path.remove_prefix(std::string_view("/v2").size());
  for (const auto& [fixed, place] : kFixed) {
    if (path == fixed) return {.place = place};
  }
  KservePath out;
  if (path.starts_with(kRepositoryModels)) {
    path.remove_prefix(kRepositoryModels.size());
    const std::optional<KservePlace> verb = TakeVerb(kRepositoryVerbs, path);
    if (!verb) return {};
    out.place = *verb;
  } else if (path.starts_with(kModels)) {
    path.remove_prefix(kModels.size());
    out.place = TakeVerb(kVerbs, path).value_or(KservePlace::kModel);
    out.version = TakeVersion(path);
  } else {
    return {};
  }
  out.model = DecodePath(path);
  return out.model.empty() ? KservePath() : out;
}

bool KserveNeedsKey(KservePlace place) {
  return place != KservePlace::kLive && place != KservePlace::kReady;
}

bool KserveIsPost(KservePlace place) { return place >= KservePlace::kIndex; }

std::string_view KservePlaceName(KservePlace place) {
  switch (place) {
    case KservePlace::kInfer:
      return "/v2/models/infer";
    case KservePlace::kGenerate:
      return "/v2/models/generate";
    case KservePlace::kGenerateStream:
      return "/v2/models/generate_stream";
    default:
      return "other";
  }
}

}  // namespace fathom::master
