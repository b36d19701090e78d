#pragma once

// The secret that all masters of a cluster share, from a file that nobody else may read.

#include <string>

#include "absl/status/statusor.h"

namespace fathom::master {

// Its bytes, without a line's end behind them. PERMISSION_DENIED when others may read or
// write the file, INVALID_ARGUMENT when it has fewer than 32 or more than 1,024 bytes.
absl::StatusOr<std::string> ReadClusterSecret(const std::string& path);

}  // namespace fathom::master
