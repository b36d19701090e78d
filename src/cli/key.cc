#include <cstdio>
#include <memory>

#include "cli/cluster/state_dir.h"
#include "cli/command.h"
#include "cli/server.h"
#include "common/digest.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

struct KeyFlags {
  std::string state_dir;
  bool hash = false;
};

absl::Status PrintKey(const KeyFlags& flags) {
  ASSIGN_OR_RETURN(const std::string path, StateDirPath(flags.state_dir));
  ASSIGN_OR_RETURN(const StateDir state, StateDir::Open(path));
  ASSIGN_OR_RETURN(const std::string key, state.EnsureKey(*Random::Real()));
  std::printf("%s\n", (flags.hash ? Sha256Hex(key) : key).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddKeyCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<KeyFlags>();
  CLI::App* command =
      app.add_subcommand("key", "Print the API key of the local cluster (made when there is none)");
  AddStateDirFlag(*command, flags->state_dir);
  command->add_flag("--hash", flags->hash, "Print its SHA-256 instead, as a keys file holds it");
  command->callback([flags, &context] { context.exit_code = Report(PrintKey(*flags)); });
}

}  // namespace fathom::cli
