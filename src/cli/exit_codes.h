#pragma once

// What the exit codes of `fathom` mean; `fathom --help` lists them.

#include "absl/status/status.h"

namespace fathom::cli {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,       // the command ran and failed
  kExitUsage = 2,        // wrong flags or arguments
  kExitUnreachable = 3,  // no server answers
  kExitRefused = 4,      // the server refuses the key
  kExitInterrupted = 130,
};

inline ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnreachable;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return kExitRefused;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitFailed;
  }
}

}  // namespace fathom::cli
