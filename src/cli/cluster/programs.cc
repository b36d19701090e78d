#include "cli/cluster/programs.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<fs::path> OwnFolder() {
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError(absl::StrCat("/proc/self/exe: ", error.message()));
  return own.parent_path();
}

}  // namespace

absl::StatusOr<std::string> FindProgram(const std::string& name) {
  ASSIGN_OR_RETURN(const fs::path folder, OwnFolder());
  const fs::path program = folder / name;
  if (access(program.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(program.string(), " is missing; build it first"));
  }
  return program.string();
}

absl::StatusOr<std::string> FindDefaultModel() {
  if (const char* model = std::getenv("FATHOM_MODEL"); model != nullptr && *model != '\0') {
    return std::string(model);
  }
  ASSIGN_OR_RETURN(const fs::path folder, OwnFolder());
  std::error_code error;
  for (fs::path above = folder; above.has_relative_path(); above = above.parent_path()) {
    for (const char* place : {"models/tiny", "share/fathom/models/tiny"}) {
      if (fs::exists(above / place / "config.json", error)) return (above / place).string();
    }
  }
  return absl::NotFoundError("models/tiny is not near this binary; use --model DIR");
}

}  // namespace fathom::cli
