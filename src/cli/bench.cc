#include "cli/command.h"

namespace fathom::cli {

void AddBenchCommand(CLI::App& app, CommandContext& context) {
  CLI::App* bench = app.add_subcommand("bench", "Measure");
  bench->require_subcommand(1);
  AddBenchEngineCommand(*bench, context);
}

}  // namespace fathom::cli
