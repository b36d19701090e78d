#pragma once

// Which server a command talks to: the one its flags name, else the local cluster of the state
// folder.

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "cli/http_client/url.h"

namespace fathom::cli {

struct ServerFlags {
  std::string url;
  std::string key;
  std::string model;
  std::string state_dir;  // empty: the default one
};

struct Server {
  Url url;
  std::string grpc_address;  // host:port; what the URL names where it is given
  std::string key;           // empty: none
  std::string model;         // empty: ask the server
};

void AddStateDirFlag(CLI::App& command, std::string& state_dir);
void AddServerFlags(CLI::App& command, ServerFlags& flags);

// The state folder that the flag names, or the default one.
absl::StatusOr<std::string> StateDirPath(const std::string& flag);

// UNAVAILABLE when no URL is given and no local cluster runs.
absl::StatusOr<Server> FindServer(const ServerFlags& flags);

}  // namespace fathom::cli
