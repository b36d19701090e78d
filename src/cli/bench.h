#pragma once

// The members of the command group `fathom bench`.

#include <CLI/CLI.hpp>

#include "cli/command.h"

namespace fathom::cli {

// The engine alone, in a fathom-worker of its own.
void AddBenchEngineCommand(CLI::App& bench, CommandContext& context);
// Load on a server that runs.
void AddBenchServeCommand(CLI::App& bench, CommandContext& context);

}  // namespace fathom::cli
