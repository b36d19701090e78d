#pragma once

// The members of the command group `fathom bench`.

#include <CLI/CLI.hpp>

#include "cli/command.h"

namespace fathom::cli {

// Load on a server that runs.
void AddBenchServeCommand(CLI::App& bench, CommandContext& context);

}  // namespace fathom::cli
