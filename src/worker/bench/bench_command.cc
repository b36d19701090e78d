#include "worker/bench/bench_command.h"

#include <unistd.h>

#include <cstdio>

#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/bench/bench_options.h"
#include "worker/bench/bench_report.h"
#include "worker/bench/bench_run.h"
#include "worker/command_line.h"
#include "worker/parent_tie.h"

namespace fathom::worker {
namespace {

absl::Status Run(const BenchOptions& options) {
  const bool draw = isatty(STDERR_FILENO) == 1;
  const auto on_progress = [draw](const std::string& what) {
    if (draw) std::fprintf(stderr, "\r%s\x1b[K", what.c_str());
  };
  const absl::StatusOr<BenchResult> result = RunBench(options, on_progress);
  if (draw) std::fputs("\r\x1b[K", stderr);
  RETURN_IF_ERROR(result.status());
  std::fputs(BenchTables(*result).c_str(), stdout);
  std::fflush(stdout);
  if (options.json_path.empty()) return absl::OkStatus();
  return WriteFileAtomically(options.json_path, BenchJson(*result));
}

}  // namespace

int BenchMain(int argc, const char* const* argv) {
  const absl::StatusOr<BenchOptions> options = ParseBenchOptions(argc, argv);
  if (absl::IsCancelled(options.status())) return kExitOk;
  if (!options.ok()) return kExitUsage;
  if (options->exit_with_parent && !TieToParent()) return kExitOk;
  const absl::Status status = Run(*options);
  if (!status.ok()) {
    std::fprintf(stderr, "fathom-worker: %s\n", std::string(Message(status)).c_str());
  }
  return ExitCodeOf(status);
}

}  // namespace fathom::worker
