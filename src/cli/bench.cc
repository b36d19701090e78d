// `fathom bench`: a group of benchmarks, each in a file of its own.

#include "cli/bench.h"

#include "cli/command.h"

namespace fathom::cli {

void AddBenchCommand(CLI::App& app, CommandContext& context) {
  CLI::App* bench = app.add_subcommand("bench", "Measure a server or an engine");
  bench->require_subcommand(1);
  AddBenchServeCommand(*bench, context);
  AddBenchEngineCommand(*bench, context);
}

}  // namespace fathom::cli
