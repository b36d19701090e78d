#pragma once

// Where our own programs and the model that ships with them lie.

#include <string>

#include "absl/status/statusor.h"

namespace fathom::cli {

// A program beside our own binary. NOT_FOUND tells where it was looked for.
absl::StatusOr<std::string> FindProgram(const std::string& name);

// $FATHOM_MODEL, else models/tiny in a folder above our own binary (a source tree), else in
// share/fathom beside bin (an installation).
absl::StatusOr<std::string> FindDefaultModel();

}  // namespace fathom::cli
