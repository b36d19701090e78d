#pragma once

// The command line of fathom-worker: a configuration file, and flags that override it.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/config.h"

namespace fathom::worker {

// Exit codes, after sysexits.h.
enum ExitCode : int {
  kExitOk = 0,
  kExitUsage = 64,
  kExitNoModel = 66,
  kExitUnavailable = 69,
  kExitInternal = 70,
  kExitConfig = 78,
};

ExitCode ExitCodeOf(const absl::Status& status);

// The configuration's `device`: "cpu", "cuda" or "cuda:N".
struct DeviceChoice {
  bool cuda = false;
  int32_t ordinal = 0;
};
absl::StatusOr<DeviceChoice> ParseDevice(const std::string& text);

struct CommandLine {
  config::Config config;  // the worker's part with every default filled in
  bool dump_config = false;
};

// INVALID_ARGUMENT for wrong flags, FAILED_PRECONDITION for a wrong configuration, CANCELLED when
// the command line asked only for what was printed (--help, --version). `master_node` is the
// environment's MASTER_NODE, or empty; `host` the default worker id.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv,
                                             const std::string& master_node,
                                             const std::string& host);

// Fills in what is unset. FAILED_PRECONDITION names the key whose value cannot be.
absl::Status FillDefaults(config::Config& config, const std::string& master_node,
                          const std::string& host);

}  // namespace fathom::worker
