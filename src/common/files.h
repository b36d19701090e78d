#pragma once

// Small whole files. Errors name the file and the operating system's reason.

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fathom {

// NOT_FOUND, PERMISSION_DENIED, or RESOURCE_EXHAUSTED when it is larger than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

// Readers see the old file or the new one, never half of it.
absl::Status WriteFileAtomically(const std::string& path, std::string_view text,
                                 mode_t mode = 0644);

}  // namespace fathom
