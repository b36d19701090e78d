#pragma once

// Seconds as people say them: 12s, 5m, 3.2h, 1.5d. Pure.

#include <string>

#include "absl/strings/str_format.h"

namespace fathom::cli {

inline std::string Age(double seconds) {
  if (seconds < 60) return absl::StrFormat("%.0fs", seconds);
  if (seconds < 3600) return absl::StrFormat("%.0fm", seconds / 60);
  if (seconds < 86400) return absl::StrFormat("%.1fh", seconds / 3600);
  return absl::StrFormat("%.1fd", seconds / 86400);
}

}  // namespace fathom::cli
