#pragma once

// Debian builds Abseil with its own string_view, so text crosses that border here and nowhere else.

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace fathom {

inline absl::string_view ToAbsl(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view ToStd(absl::string_view s) { return {s.data(), s.size()}; }

// The message of a status as std text; valid as long as `status`.
inline std::string_view Message(const absl::Status& status) { return ToStd(status.message()); }

}  // namespace fathom
