#include "common/version.h"

#include <cstdio>

#include "cli/command.h"

namespace fathom::cli {

void AddVersionCommand(CLI::App& app, CommandContext&) {
  app.add_subcommand("version", "Print the version")->callback([] {
    std::printf("fathom %s\n", kVersion);
  });
}

}  // namespace fathom::cli
