#pragma once

// Shows something once, or again every second until Ctrl-C, on a terminal in place of the last.

#include <cstdio>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "common/status_macros.h"

namespace fathom::cli {

// Ends with the first error; while watching, a master that does not answer is none: it may restart.
inline absl::Status Show(const std::function<absl::StatusOr<std::string>()>& text, bool watch,
                         ShutdownSignal& shutdown) {
  const auto print = [](const std::string& out) {
    std::fwrite(out.data(), 1, out.size(), stdout);
    std::fflush(stdout);
  };
  if (!watch) {
    ASSIGN_OR_RETURN(const std::string out, text());
    print(out);
    return absl::OkStatus();
  }
  do {
    const absl::StatusOr<std::string> out = text();
    if (!out.ok() && !absl::IsUnavailable(out.status())) return out.status();
    const std::string shown = out.ok() ? *out : std::string(out.status().message()) + "\n";
    print(StdoutIsTerminal() ? "\x1b[H\x1b[2J" + shown : shown + "\n");
  } while (!shutdown.WaitFor(absl::Seconds(1)));
  return absl::CancelledError("interrupted");
}

}  // namespace fathom::cli
