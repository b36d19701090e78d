#include "cli/server.h"

#include "cli/cluster/state_dir.h"
#include "common/status_macros.h"

namespace fathom::cli {

void AddStateDirFlag(CLI::App& command, std::string& state_dir) {
  command
      .add_option("--state-dir", state_dir,
                  "State folder of the local cluster; default $XDG_STATE_HOME/fathom or "
                  "~/.local/state/fathom")
      ->envname("FATHOM_STATE_DIR")
      ->type_name("DIR");
}

void AddServerFlags(CLI::App& command, ServerFlags& flags) {
  command.add_option("--url", flags.url, "The server; default the local cluster")
      ->envname("FATHOM_URL")
      ->type_name("URL");
  command.add_option("--key", flags.key, "API key; default the local cluster's")
      ->envname("FATHOM_API_KEY")
      ->type_name("KEY");
  command.add_option("--model", flags.model, "Model; default the first one the server lists")
      ->type_name("NAME");
  AddStateDirFlag(command, flags.state_dir);
}

absl::StatusOr<std::string> StateDirPath(const std::string& flag) {
  if (!flag.empty()) return flag;
  return DefaultStateDir();
}

absl::StatusOr<Server> FindServer(const ServerFlags& flags) {
  Server server;
  server.key = flags.key;
  server.model = flags.model;
  if (!flags.url.empty()) {
    ASSIGN_OR_RETURN(server.url, ParseUrl(flags.url));
    server.grpc_address = server.url.authority();
    return server;
  }
  ASSIGN_OR_RETURN(const std::string path, StateDirPath(flags.state_dir));
  ASSIGN_OR_RETURN(const StateDir state, StateDir::Open(path));
  ASSIGN_OR_RETURN(const ClusterInfo info, state.RunningCluster());
  ASSIGN_OR_RETURN(server.url, ParseUrl(info.http_url));
  server.grpc_address = info.grpc_address;
  if (server.model.empty()) server.model = info.model;
  if (server.key.empty() && !info.open) {
    ASSIGN_OR_RETURN(server.key, state.ReadKey());
  }
  return server;
}

}  // namespace fathom::cli
