// `fathom bench engine`: fathom-worker holds the engine, so its `bench` does the work and knows the
// flags; they pass through as they are.

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "cli/bench.h"
#include "cli/cluster/programs.h"
#include "cli/exit_codes.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

constexpr int kWorkerUsage = 64;  // fathom-worker's exit code for wrong flags

// Runs the worker on our terminal and waits; its exit code, or 128 and the signal that ended it.
absl::StatusOr<int> RunWorker(std::vector<std::string> arguments) {
  ASSIGN_OR_RETURN(const std::string program, FindProgram("fathom-worker"));
  arguments.insert(arguments.begin(), {program, "bench", "--exit-with-parent"});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, program.c_str(), nullptr, nullptr, argv.data(), environ);
  if (error != 0) return absl::ErrnoToStatus(error, program);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, "waiting for fathom-worker");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int Run(const std::vector<std::string>& arguments) {
  const absl::StatusOr<int> code = RunWorker(arguments);
  if (!code.ok()) return Report(code.status());
  switch (*code) {
    case 0:
      return kExitOk;
    case kWorkerUsage:
      return kExitUsage;
    case kExitInterrupted:
      return kExitInterrupted;
    default:
      return kExitFailed;
  }
}

}  // namespace

void AddBenchEngineCommand(CLI::App& bench, CommandContext& context) {
  CLI::App* command = bench.add_subcommand(
      "engine",
      "Measure the engine on this machine against its memory and oneDNN: --model DIR or "
      "--dummy-weights SHAPE; engine --help lists the flags");
  command->prefix_command();
  command->set_help_flag();  // the worker's own help says more
  command->callback([command, &context] { context.exit_code = Run(command->remaining()); });
}

}  // namespace fathom::cli
