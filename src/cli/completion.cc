// `fathom completion SHELL`: a script for the shell to source.

#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "cli/completion/scripts.h"

namespace fathom::cli {

void AddCompletionCommand(CLI::App& app, CommandContext& /*context*/) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "completion", "Print a completion script: source <(fathom completion bash)");
  command->add_option("shell", *shell, "Whose language")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([shell, &app] {
    const std::string script = *shell == "bash"  ? BashCompletion(app)
                               : *shell == "zsh" ? ZshCompletion(app)
                                                 : FishCompletion(app);
    std::fputs(script.c_str(), stdout);
  });
}

}  // namespace fathom::cli
