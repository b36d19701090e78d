// fathom-master: speaks to clients, and to workers that dial in.

#include <sys/resource.h>
#include <sysexits.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "common/crash_watch.h"
#include "common/lock_order.h"
#include "common/logging.h"
#include "common/shutdown.h"
#include "common/tls/link_credentials.h"
#include "common/version.h"
#include "master/master.h"
#include "master/settings.h"

namespace fathom::master {
namespace {

// Longer than Kubernetes leaves by default after its preStop: the platform's limit rules, not ours.
constexpr absl::Duration kDrainGrace = absl::Minutes(10);
// What a master opens besides its HTTP connections, about.
constexpr rlim_t kOtherDescriptors = 256;

struct Flags {
  std::string config;
  std::optional<std::string> bind, model, model_name, keys_file, ports_file, id, log_level;
  std::optional<std::string> link_ca, link_cert, link_key, cluster_secret_file;
  std::optional<std::string> database, database_password_file, link_advertise;
  std::optional<std::string> pool, reasoning_parser, tool_parser;
  std::optional<int32_t> http_port, grpc_port, admin_port, link_port, metrics_port;
  bool open = false;
  bool insecure_listen = false;
  bool insecure_link = false;
  bool reflection = false;
  bool dump_config = false;
};

void Declare(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", std::string("fathom-master ") + kVersion);
  app.add_option("--config", flags.config, "Configuration file (YAML)");
  app.add_option("--id", flags.id, "Stable name of this master");
  app.add_option("--bind", flags.bind, "Address to listen on (127.0.0.1)");
  app.add_option("--http-port", flags.http_port, "OpenAI HTTP (8000); 0 any, -1 off");
  app.add_option("--grpc-port", flags.grpc_port, "gRPC inference (8001); 0 any, -1 off");
  app.add_option("--admin-port", flags.admin_port, "gRPC for operators (8002); 0 any, -1 off");
  app.add_option("--link-port", flags.link_port, "Where workers dial in (5000); 0 any");
  app.add_option("--link-ca", flags.link_ca, "Certificates of the CA that workers' are of (PEM)");
  app.add_option("--link-cert", flags.link_cert, "The link's own certificate (PEM)");
  app.add_option("--link-key", flags.link_key, "Its private key (PEM)");
  app.add_option("--link-advertise", flags.link_advertise,
                 "host:port at which workers reach the link (what is bound)");
  app.add_option("--database", flags.database,
                 "What masters share: sqlite:PATH or postgresql://USER@HOST/NAME (in memory)");
  app.add_option("--database-password-file", flags.database_password_file,
                 "File that holds PostgreSQL's password");
  app.add_option("--metrics-port", flags.metrics_port, "Health, metrics (9090); 0 any, -1 off");
  app.add_option("--model", flags.model,
                 "Model directory in Hugging Face layout (several: in the configuration file)");
  app.add_option("--model-name", flags.model_name, "Name clients use (the directory's name)");
  app.add_option("--pool", flags.pool, "Pool of workers that run the model (all that have it)");
  app.add_option("--reasoning-parser", flags.reasoning_parser,
                 "How the model marks reasoning: auto, none or think");
  app.add_option("--tool-parser", flags.tool_parser,
                 "How the model writes tool calls: auto, none or hermes");
  app.add_option("--cluster-secret-file", flags.cluster_secret_file,
                 "Secret that all masters of a cluster share (32 to 1,024 bytes)");
  app.add_option("--keys-file", flags.keys_file, "File of hashed API keys");
  app.add_option("--ports-file", flags.ports_file, "Write the ports that were bound here (JSON)");
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warn or error");
  app.add_flag("--open", flags.open, "No key needed; loopback only");
  app.add_flag("--insecure-listen", flags.insecure_listen, "Allow plaintext beyond loopback");
  app.add_flag("--insecure-link", flags.insecure_link,
               "Take workers without TLS: whoever reaches the port may be one");
  app.add_flag("--grpc-reflection", flags.reflection, "Let gRPC clients ask for the schema");
  app.add_flag("--dump-config", flags.dump_config, "Print the configuration in effect and exit");
}

// Flags speak of one model: the only one, or the first of a file.
void OverrideModel(const Flags& flags, config::Master& master) {
  if (!flags.model && !flags.model_name && !flags.pool && !flags.reasoning_parser &&
      !flags.tool_parser) {
    return;
  }
  config::Model& model = master.models().empty() ? *master.add_models() : *master.mutable_models(0);
  if (flags.model) model.set_path(*flags.model);
  if (flags.model_name) model.set_name(*flags.model_name);
  if (flags.pool) model.set_pool(*flags.pool);
  if (flags.reasoning_parser) model.set_reasoning_parser(*flags.reasoning_parser);
  if (flags.tool_parser) model.set_tool_parser(*flags.tool_parser);
}

void Override(const Flags& flags, config::Config& config) {
  config::Master& master = *config.mutable_master();
  if (flags.id) master.set_id(*flags.id);
  if (flags.bind) master.set_bind(*flags.bind);
  if (flags.http_port) master.set_http_port(*flags.http_port);
  if (flags.grpc_port) master.set_grpc_port(*flags.grpc_port);
  if (flags.admin_port) master.set_admin_port(*flags.admin_port);
  if (flags.link_port) master.set_link_port(*flags.link_port);
  if (flags.link_ca) master.mutable_link_tls()->set_ca(*flags.link_ca);
  if (flags.link_cert) master.mutable_link_tls()->set_certificate(*flags.link_cert);
  if (flags.link_key) master.mutable_link_tls()->set_key(*flags.link_key);
  if (flags.link_advertise) master.set_link_advertise(*flags.link_advertise);
  if (flags.database) master.set_database(*flags.database);
  if (flags.database_password_file) {
    master.set_database_password_file(*flags.database_password_file);
  }
  if (flags.insecure_link) master.set_insecure_link(true);
  if (flags.metrics_port) master.set_metrics_port(*flags.metrics_port);
  OverrideModel(flags, master);
  if (flags.cluster_secret_file) master.set_cluster_secret_file(*flags.cluster_secret_file);
  if (flags.keys_file) master.set_keys_file(*flags.keys_file);
  if (flags.ports_file) master.set_ports_file(*flags.ports_file);
  if (flags.open) master.set_open(true);
  if (flags.insecure_listen) master.set_insecure_listen(true);
  if (flags.reflection) master.set_grpc_reflection(true);
  if (flags.log_level) config.mutable_logging()->set_level(*flags.log_level);
}

int Fail(const LogOptions& log, const absl::Status& status) {
  LogCannotStart(log, "master", status);
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
      return EX_CONFIG;
    case absl::StatusCode::kNotFound:
      return EX_NOINPUT;
    case absl::StatusCode::kPermissionDenied:
      return EX_NOPERM;
    case absl::StatusCode::kUnavailable:
      return EX_UNAVAILABLE;
    default:
      return EX_SOFTWARE;
  }
}

// A connection is a file descriptor, and the usual soft limit of 1024 is for programs that use
// select.
void AllowManyConnections(int connections) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < static_cast<rlim_t>(connections) + kOtherDescriptors) {
    LogWarn("master", "fewer file descriptors than connections are allowed",
            {{"labels.descriptors", static_cast<int64_t>(limit.rlim_cur)},
             {"labels.connections", int64_t{connections}}});
  }
}

int Run(const Flags& flags, LogOptions log, ShutdownSignal& shutdown) {
  config::Config config;
  if (!flags.config.empty()) {
    absl::StatusOr<config::Config> loaded = LoadConfig(flags.config);
    if (!loaded.ok()) return Fail(log, loaded.status());
    config = *std::move(loaded);
  }
  Override(flags, config);
  if (flags.dump_config) {
    std::cout << DumpConfig(config);
    return EX_OK;
  }
  log.json = config.logging().format() != "text";
  if (!config.logging().level().empty()) log.level = config.logging().level();
  const absl::StatusOr<MasterSettings> settings = ResolveSettings(config.master());
  if (!settings.ok()) return Fail(log, settings.status());
  log.node = settings->id;
  if (const absl::Status ready = InitLogging(log); !ready.ok()) return Fail(log, ready);
  const CrashWatch crash([](int signal) {
    LogError("master", "crashing", {{"labels.signal", int64_t{signal}}});
    FlushLogs(kFlushInCrash);
  });
  AllowManyConnections(settings->http.connections);
  RequireTls13();
  LogForGrpc();

  const auto master = Master::Start(*settings);
  if (!master.ok()) return Fail(log, master.status());
  shutdown.Wait();
  const bool finished = (*master)->Drain(kDrainGrace, [&shutdown] { return shutdown.count() > 1; });
  LogInfo("master", "stopping", {{"labels.drained", finished}});
  return EX_OK;
}

}  // namespace
}  // namespace fathom::master

int main(int argc, char** argv) {
  fathom::SkipLockOrderChecks();
  fathom::ShutdownSignal shutdown;
  const fathom::LogOptions log{.service = "fathom-master"};
  CLI::App app("Serves a model to OpenAI HTTP and gRPC clients, with the workers that dial in");
  fathom::master::Flags flags;
  fathom::master::Declare(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // help was asked for
    const auto why = absl::StrCat(error.what(), "; see fathom-master --help");
    fathom::LogCannotStart(log, "master", absl::InvalidArgumentError(why));
    return EX_USAGE;
  }
  return fathom::master::Run(flags, log, shutdown);
}
