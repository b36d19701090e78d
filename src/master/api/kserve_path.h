#pragma once

// The places of KServe v2 over HTTP, all below /v2. Pure.

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom::master {

enum class KservePlace : uint8_t {
  kNone,
  kLive,
  kReady,
  kServer,
  kModel,
  kModelReady,
  kConfig,
  kStats,  // of all models when the path names none
  kIndex,
  kLoad,
  kUnload,
  kInfer,
  kGenerate,
  kGenerateStream,
};

struct KservePath {
  KservePlace place = KservePlace::kNone;
  std::string model;  // decoded; may hold slashes
  std::string version;
};

inline bool IsKservePath(std::string_view path) {
  return path == "/v2" || path.starts_with("/v2/");
}
// `path` without query, still percent-encoded.
KservePath ParseKservePath(std::string_view path);

bool KserveNeedsKey(KservePlace place);
bool KserveIsPost(KservePlace place);
// For metrics: the same whatever the model is called.
std::string_view KservePlaceName(KservePlace place);

}  // namespace fathom::master
