#pragma once

// Well-known models by name, as shapes without weights: what a benchmark runs on any device when
// no checkpoint is at hand. The texts are the fields of the published config.json files that
// decide what is computed.

#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/model/model_config.h"

namespace fathom::worker {

struct ModelShape {
  std::string_view name;
  std::string_view config_json;
};

// By size, smallest first.
std::span<const ModelShape> ModelShapes();

// NotFound lists the names that exist.
absl::StatusOr<ModelConfig> ConfigOfShape(std::string_view name);

}  // namespace fathom::worker
