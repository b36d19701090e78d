#pragma once

// What every command of `fathom` gets and gives.

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "common/shutdown.h"

namespace fathom::cli {

struct CommandContext {
  ShutdownSignal& shutdown;
  int exit_code = 0;  // set by the command that ran
};

// Says the error on stderr as `fathom: ...` and returns its exit code (exit_codes.h); silent when
// the user interrupted.
int Report(const absl::Status& status);

// Each adds its command to `app`; the command runs within app.parse().
void AddUpCommand(CLI::App& app, CommandContext& context);
void AddBenchCommand(CLI::App& app, CommandContext& context);
void AddCertCommand(CLI::App& app, CommandContext& context);
void AddChaosCommand(CLI::App& app, CommandContext& context);
void AddChatCommand(CLI::App& app, CommandContext& context);
void AddCompletionCommand(CLI::App& app, CommandContext& context);
void AddEvalCommand(CLI::App& app, CommandContext& context);
void AddKeyCommand(CLI::App& app, CommandContext& context);
void AddExplainCommand(CLI::App& app, CommandContext& context);
void AddMastersCommand(CLI::App& app, CommandContext& context);
void AddModelCommand(CLI::App& app, CommandContext& context);
void AddRequestsCommand(CLI::App& app, CommandContext& context);
void AddTokenizeCommand(CLI::App& app, CommandContext& context);
void AddVersionCommand(CLI::App& app, CommandContext& context);
void AddWorkersCommand(CLI::App& app, CommandContext& context);

}  // namespace fathom::cli
