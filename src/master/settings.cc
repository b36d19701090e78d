#include "master/settings.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/address.hpp>
#include <chrono>
#include <filesystem>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "master/models/routes.h"

namespace fathom::master {
namespace {

constexpr int32_t kPortMax = 65535;
constexpr int kThreadsMax = 8;
constexpr int32_t kSecondsMax = 86400;
constexpr int kModelsMax = 64;

absl::Status Bad(const char* name, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("master.", name, ": ", why));
}

absl::Status ReadPort(const char* name, bool given, int32_t value, std::optional<uint16_t>& port) {
  if (!given) return absl::OkStatus();
  if (value < -1 || value > kPortMax) return Bad(name, "not a port");
  port = value < 0 ? std::nullopt : std::optional<uint16_t>(static_cast<uint16_t>(value));
  return absl::OkStatus();
}

// 0 leaves the default.
template <typename T, typename U>
absl::Status ReadLimit(const char* name, T value, T max, U& limit) {
  if (value < 0 || value > max) {
    return Bad(name, absl::StrCat("must be between 1 and ", max, ", or 0 for the default"));
  }
  if (value > 0) limit = static_cast<U>(value);
  return absl::OkStatus();
}

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "master";
}

// "/models/tiny/" is called tiny.
std::string DirectoryName(const std::string& path) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::weakly_canonical(path, error);
  if (error) return {};
  return (real.has_filename() ? real : real.parent_path()).filename().string();
}

bool IsHostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  int32_t port = 0;
  return colon != std::string::npos && colon > 0 && text.size() < 256 &&
         absl::SimpleAtoi(text.substr(colon + 1), &port) && port > 0 && port <= kPortMax;
}

absl::Status ReadTime(const char* name, int32_t value, std::chrono::milliseconds& limit) {
  int32_t seconds = 0;
  RETURN_IF_ERROR(ReadLimit(name, value, kSecondsMax, seconds));
  if (seconds > 0) limit = std::chrono::seconds(seconds);
  return absl::OkStatus();
}

absl::Status ReadLimits(const config::Limits& in, MasterSettings& out) {
  RETURN_IF_ERROR(ReadLimit("limits.body_bytes", int64_t{in.body_bytes()}, int64_t{1} << 30,
                            out.http.body_bytes));
  RETURN_IF_ERROR(ReadLimit("limits.connections", in.connections(), 1 << 20, out.http.connections));
  RETURN_IF_ERROR(ReadLimit("limits.choices", in.choices(), 256, out.choices));
  RETURN_IF_ERROR(ReadLimit("limits.requests", in.requests(), 1 << 20, out.requests));
  int32_t seconds = 0;
  RETURN_IF_ERROR(ReadLimit("limits.request_seconds", in.request_seconds(), kSecondsMax, seconds));
  if (seconds > 0) out.request_time = absl::Seconds(seconds);
  RETURN_IF_ERROR(ReadTime("limits.header_seconds", in.header_seconds(), out.http.header));
  RETURN_IF_ERROR(ReadTime("limits.body_seconds", in.body_seconds(), out.http.body));
  RETURN_IF_ERROR(ReadTime("limits.write_seconds", in.write_seconds(), out.http.write));
  RETURN_IF_ERROR(
      ReadTime("limits.connection_age_seconds", in.connection_age_seconds(), out.http.age));
  return ReadLimit("limits.client_backlog_bytes", int64_t{in.client_backlog_bytes()},
                   int64_t{1} << 30, out.client_backlog_bytes);
}

absl::Status ReadModels(const config::Master& master, std::vector<ModelSettings>& models) {
  if (master.models_size() > kModelsMax) {
    return Bad("models", absl::StrCat("at most ", kModelsMax, " are served"));
  }
  for (const config::Model& in : master.models()) {
    ModelSettings model{.path = in.path(),
                        .name = in.name().empty() ? DirectoryName(in.path()) : in.name(),
                        .pool = in.pool(),
                        .reasoning_parser = in.reasoning_parser(),
                        .tool_parser = in.tool_parser()};
    if (model.path.empty()) return Bad("models.path", "is needed");
    if (model.name.empty()) return Bad("models.name", "is needed");
    if (SplitModelName(model.name).version > 0) {
      return Bad("models.name",
                 absl::StrCat("'", model.name, "' is that of a version of the catalogue"));
    }
    for (const ModelSettings& other : models) {
      if (other.name == model.name) {
        return Bad("models.name", absl::StrCat("'", model.name, "' is there twice"));
      }
    }
    models.push_back(std::move(model));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MasterSettings> ResolveSettings(const config::Master& master) {
  MasterSettings out;
  out.id = master.id().empty() ? HostName() : master.id();
  if (!master.bind().empty()) out.bind = master.bind();
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(out.bind, error);
  if (error) return Bad("bind", absl::StrCat("'", out.bind, "' is not an IP address"));
  out.loopback = address.is_loopback();
  out.binds_all = address.is_unspecified();
  out.insecure_listen = master.insecure_listen();
  if (!out.loopback && !out.insecure_listen) {
    return Bad("bind", absl::StrCat(out.bind,
                                    " is not loopback and TLS is not configured; "
                                    "insecure_listen allows plaintext"));
  }
  RETURN_IF_ERROR(ReadPort("http_port", master.has_http_port(), master.http_port(), out.http_port));
  RETURN_IF_ERROR(ReadPort("grpc_port", master.has_grpc_port(), master.grpc_port(), out.grpc_port));
  RETURN_IF_ERROR(
      ReadPort("metrics_port", master.has_metrics_port(), master.metrics_port(), out.metrics_port));
  RETURN_IF_ERROR(
      ReadPort("admin_port", master.has_admin_port(), master.admin_port(), out.admin_port));
  std::optional<uint16_t> link = out.link_port;
  RETURN_IF_ERROR(ReadPort("link_port", master.has_link_port(), master.link_port(), link));
  if (!link) return Bad("link_port", "a master without workers serves nothing");
  out.link_port = *link;

  out.link_tls = {.ca = master.link_tls().ca(),
                  .certificate = master.link_tls().certificate(),
                  .key = master.link_tls().key()};
  out.insecure_link = master.insecure_link();
  if (out.link_tls.empty() && !out.insecure_link) {
    return Bad("link_tls",
               "is needed for workers to be known by (`fathom cert` makes "
               "certificates); insecure_link does without");
  }

  absl::StatusOr<DatabaseUrl> database = ParseDatabaseUrl(master.database());
  if (!database.ok()) return Bad("database", std::string(database.status().message()));
  out.database = *std::move(database);
  out.database_password_file = master.database_password_file();
  if (!out.database_password_file.empty() && out.database.dialect != SqlDialect::kPostgresql) {
    return Bad("database_password_file", "SQLite asks for no password");
  }
  out.link_advertise = master.link_advertise();
  if (!out.link_advertise.empty() && !IsHostPort(out.link_advertise)) {
    return Bad("link_advertise", "is not host:port");
  }

  out.open = master.open();
  out.keys_file = master.keys_file();
  if (out.open && !out.loopback) return Bad("open", "serves without a key on loopback only");
  if (out.open == !out.keys_file.empty()) {
    return Bad("keys_file", "give either a file of keys or `open`");
  }
  out.cluster_secret_file = master.cluster_secret_file();
  RETURN_IF_ERROR(ReadModels(master, out.models));
  out.ports_file = master.ports_file();
  out.grpc_reflection = master.grpc_reflection();
  if (master.has_migration()) out.migration = master.migration();
  RETURN_IF_ERROR(ReadLimits(master.limits(), out));
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  out.io_threads = std::clamp(cores / 2, 1, kThreadsMax);
  out.cpu_threads = std::clamp(cores / 2, 1, kThreadsMax);
  return out;
}

}  // namespace fathom::master
