#pragma once

// The configuration file: YAML read into fathom.config.Config. Unknown keys, wrong types and
// numbers out of range are errors that name the line. Defaults are not filled in here; each process
// states its own.

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fathom/config.pb.h"

namespace fathom {

absl::StatusOr<config::Config> LoadConfig(const std::string& path);
absl::StatusOr<config::Config> ParseConfig(std::string_view yaml);

// As YAML that ParseConfig reads back. Unset fields are left out.
std::string DumpConfig(const config::Config& config);

}  // namespace fathom
