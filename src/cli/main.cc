// The `fathom` command.

#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/command.h"
#include "cli/exit_codes.h"
#include "common/lock_order.h"
#include "common/strings.h"

namespace fathom::cli {

int Report(const absl::Status& status) {
  if (!status.ok() && !absl::IsCancelled(status)) {
    std::fprintf(stderr, "fathom: %s\n", std::string(Message(status)).c_str());
  }
  return ExitCodeOf(status);
}

namespace {

int Main(int argc, char** argv) {
  ShutdownSignal shutdown;
  CommandContext context{shutdown};
  CLI::App app{"Fathom: a distributed inference server for large language models", "fathom"};
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no server answers, 4 key refused, "
      "130 interrupted");
  AddUpCommand(app, context);
  AddChatCommand(app, context);
  AddEvalCommand(app, context);
  AddBenchCommand(app, context);
  AddChaosCommand(app, context);
  AddTokenizeCommand(app, context);
  AddModelCommand(app, context);
  AddWorkersCommand(app, context);
  AddMastersCommand(app, context);
  AddRequestsCommand(app, context);
  AddExplainCommand(app, context);
  AddKeyCommand(app, context);
  AddCertCommand(app, context);
  AddCompletionCommand(app, context);
  AddVersionCommand(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return context.exit_code;
}

}  // namespace
}  // namespace fathom::cli

int main(int argc, char** argv) {
  fathom::SkipLockOrderChecks();
  return fathom::cli::Main(argc, argv);
}
