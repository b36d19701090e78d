#pragma once

// A master's configuration with its defaults filled in and checked. Pure.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/tls/link_credentials.h"
#include "fathom/config.pb.h"
#include "master/api/http_limits.h"
#include "master/state/database_url.h"

namespace fathom::master {

struct ModelSettings {
  std::string path;
  std::string name;
  std::string pool;              // empty: any worker that has it
  std::string reasoning_parser;  // empty: auto
  std::string tool_parser;
};

struct MasterSettings {
  std::string id;
  std::string bind = "127.0.0.1";
  bool loopback = true;    // `bind` is one
  bool binds_all = false;  // `bind` is every address there is
  // Nothing: off. 0: any free one.
  std::optional<uint16_t> http_port = 8000;
  std::optional<uint16_t> grpc_port = 8001;
  std::optional<uint16_t> metrics_port = 9090;
  std::optional<uint16_t> admin_port = 8002;
  uint16_t link_port = 5000;
  bool insecure_listen = false;
  TlsFiles link_tls;
  bool insecure_link = false;
  bool open = false;
  std::string keys_file;
  std::string cluster_secret_file;  // empty: a secret of its own
  DatabaseUrl database;
  std::string database_password_file;
  std::string link_advertise;         // host:port; empty: what is bound
  std::vector<ModelSettings> models;  // names are unique; others come to the catalogue later
  std::string ports_file;
  bool grpc_reflection = false;
  bool migration = true;
  int io_threads = 2;
  int cpu_threads = 2;
  int32_t choices = 16;
  int32_t requests = 4096;
  absl::Duration request_time = absl::Minutes(10);
  int64_t client_backlog_bytes = int64_t{4} << 20;
  HttpLimits http;
};

// INVALID_ARGUMENT that names the setting.
absl::StatusOr<MasterSettings> ResolveSettings(const config::Master& master);

}  // namespace fathom::master
