#include "worker/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"
#include "common/version.h"

namespace fathom::worker {
namespace {

constexpr char kFooter[] =
    "`fathom-worker bench` measures the engine of this machine (bench --help).\n"
    "The environment's MASTER_NODE=host:port, when set, is one more master.\n"
    "Exit codes: 0 ended as asked, 64 wrong usage, 66 model missing, 69 port taken, 70 internal "
    "error, 78 wrong configuration";

// Flags as given; unset ones leave the file's value.
struct Flags {
  std::string config_path;
  std::vector<std::string> masters;
  std::optional<std::string> dummy_weights, model, model_name, id, pool, device, backend, dtype,
      bind, ports_file, link_ca, link_cert, link_key, log_level, log_format;
  std::optional<int64_t> kv_cache_bytes;
  std::optional<int32_t> max_context, max_sequences, step_tokens, threads, metrics_port,
      drain_seconds;
  bool no_prefix_cache = false;
  bool batch_invariant = false;
  bool insecure_link = false;
  bool exit_with_parent = false;
  bool dump_config = false;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.add_option("--config", flags.config_path, "Configuration file (YAML); flags override it");
  app.add_option("--master", flags.masters, "host:port of a master's link; may come repeatedly");
  app.add_option("--model", flags.model,
                 "Folder of the model, in Hugging Face layout (default: none, masters order some)");
  app.add_option("--dummy-weights", flags.dummy_weights,
                 "Random weights of this shape instead of the model's, for measurements")
      ->type_name("SHAPE");
  app.add_option("--model-name", flags.model_name,
                 "Name it is served under (default: the folder's)");
  app.add_option("--id", flags.id, "Stable name of this worker (default: the host's)");
  app.add_option("--pool", flags.pool, "Pool of this worker: models of that pool run here");
  app.add_option("--device", flags.device, "cpu (default), cuda or cuda:N, the Nth GPU");
  app.add_option("--backend", flags.backend, "fast (default) or ref, the naive oracle");
  app.add_option("--dtype", flags.dtype, "bf16, f16 (on a GPU), f32 or auto (default: as stored)");
  app.add_option("--kv-cache-bytes", flags.kv_cache_bytes,
                 "Memory of a model's KV cache (default: a part of what is free)");
  app.add_option("--max-context", flags.max_context,
                 "Tokens a sequence may have (default: the model's)");
  app.add_option("--max-sequences", flags.max_sequences,
                 "Sequences that run at once (default 256)");
  app.add_option("--step-tokens", flags.step_tokens,
                 "Tokens one step computes at most (default 2048)");
  app.add_flag("--no-prefix-cache", flags.no_prefix_cache, "Do not reuse common prefixes");
  app.add_flag("--batch-invariant", flags.batch_invariant,
               "Same tokens whatever else runs, at some cost in speed");
  app.add_option("--threads", flags.threads, "Threads of the CPU backend (default: one a core)");
  app.add_option("--bind", flags.bind, "Address of the health port (default 127.0.0.1)");
  app.add_option("--metrics-port", flags.metrics_port,
                 "Health and metrics (default 9090; 0: any free one; -1: off)");
  app.add_option("--ports-file", flags.ports_file,
                 "File the port really bound is written to (JSON)");
  app.add_option("--drain-seconds", flags.drain_seconds,
                 "Time running work gets after SIGTERM (default 30)");
  app.add_option("--link-ca", flags.link_ca, "Certificates of the CA that masters' are of (PEM)");
  app.add_option("--link-cert", flags.link_cert, "This worker's certificate (PEM)");
  app.add_option("--link-key", flags.link_key, "Its private key (PEM)");
  app.add_flag("--insecure-link", flags.insecure_link,
               "Dial masters without TLS: whoever answers may be one");
  app.add_flag("--exit-with-parent", flags.exit_with_parent,
               "End with the process that started this one");
  app.add_option("--log-level", flags.log_level, "trace, debug, info (default), warn or error");
  app.add_option("--log-format", flags.log_format, "json (default) or text");
  app.add_flag("--dump-config", flags.dump_config, "Print the configuration in force and exit");
}

template <typename T, typename Setter>
void Apply(const std::optional<T>& flag, Setter set) {
  if (flag) set(*flag);
}

void Override(const Flags& flags, config::Config& config) {
  config::Worker& worker = *config.mutable_worker();
  if (!flags.masters.empty()) {
    worker.clear_masters();
    for (const std::string& master : flags.masters) worker.add_masters(master);
  }
  Apply(flags.model, [&](const auto& v) { worker.set_model_path(v); });
  Apply(flags.dummy_weights, [&](const auto& v) { worker.set_dummy_weights(v); });
  Apply(flags.model_name, [&](const auto& v) { worker.set_model_name(v); });
  Apply(flags.id, [&](const auto& v) { worker.set_id(v); });
  Apply(flags.pool, [&](const auto& v) { (*worker.mutable_labels())["pool"] = v; });
  Apply(flags.device, [&](const auto& v) { worker.set_device(v); });
  Apply(flags.backend, [&](const auto& v) { worker.set_backend(v); });
  Apply(flags.dtype, [&](const auto& v) { worker.set_dtype(v); });
  Apply(flags.bind, [&](const auto& v) { worker.set_bind(v); });
  Apply(flags.ports_file, [&](const auto& v) { worker.set_ports_file(v); });
  Apply(flags.link_ca, [&](const auto& v) { worker.mutable_link_tls()->set_ca(v); });
  Apply(flags.link_cert, [&](const auto& v) { worker.mutable_link_tls()->set_certificate(v); });
  Apply(flags.link_key, [&](const auto& v) { worker.mutable_link_tls()->set_key(v); });
  Apply(flags.kv_cache_bytes, [&](auto v) { worker.set_kv_cache_bytes(v); });
  Apply(flags.max_context, [&](auto v) { worker.set_max_context(v); });
  Apply(flags.max_sequences, [&](auto v) { worker.set_max_sequences(v); });
  Apply(flags.step_tokens, [&](auto v) { worker.set_step_tokens(v); });
  Apply(flags.threads, [&](auto v) { worker.set_threads(v); });
  Apply(flags.metrics_port, [&](auto v) { worker.set_metrics_port(v); });
  Apply(flags.drain_seconds, [&](auto v) { worker.set_drain_seconds(v); });
  Apply(flags.log_level, [&](const auto& v) { config.mutable_logging()->set_level(v); });
  Apply(flags.log_format, [&](const auto& v) { config.mutable_logging()->set_format(v); });
  if (flags.no_prefix_cache) worker.set_prefix_cache(false);
  if (flags.batch_invariant) worker.set_batch_invariant(true);
  if (flags.insecure_link) worker.set_insecure_link(true);
  if (flags.exit_with_parent) worker.set_exit_with_parent(true);
}

absl::Status Wrong(absl::string_view key, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("worker.", key, ": ", what));
}

absl::Status CheckOneOf(absl::string_view key, const std::string& value,
                        std::initializer_list<const char*> values) {
  if (std::find(values.begin(), values.end(), value) != values.end()) return absl::OkStatus();
  return Wrong(key, absl::StrCat("'", value, "' is not one of its values"));
}

absl::Status CheckRange(absl::string_view key, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Wrong(key, absl::StrCat(value, " is not within ", low, " and ", high));
}

}  // namespace

absl::StatusOr<DeviceChoice> ParseDevice(const std::string& text) {
  DeviceChoice choice;
  if (text == "cpu") return choice;
  choice.cuda = true;
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "cuda") ||
      (!rest.empty() && (!absl::ConsumePrefix(&rest, ":") ||
                         !absl::SimpleAtoi(rest, &choice.ordinal) || choice.ordinal < 0))) {
    return Wrong("device", absl::StrCat("'", text, "' is not cpu, cuda or cuda:N"));
  }
  return choice;
}

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kCancelled:
      return kExitOk;
    case absl::StatusCode::kNotFound:
      return kExitNoModel;
    case absl::StatusCode::kUnavailable:
      return kExitUnavailable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
      return kExitConfig;
    default:
      return kExitInternal;
  }
}

absl::Status FillDefaults(config::Config& config, const std::string& master_node,
                          const std::string& host) {
  config::Worker& worker = *config.mutable_worker();
  if (!master_node.empty()) worker.add_masters(master_node);
  if (worker.id().empty()) worker.set_id(host);
  if (worker.device().empty()) worker.set_device("cpu");
  if (worker.backend().empty()) worker.set_backend("fast");
  if (worker.dtype().empty()) worker.set_dtype("auto");
  if (worker.max_sequences() == 0) worker.set_max_sequences(256);
  if (worker.step_tokens() == 0) worker.set_step_tokens(2048);
  if (!worker.has_prefix_cache()) worker.set_prefix_cache(true);
  if (worker.bind().empty()) worker.set_bind("127.0.0.1");
  if (!worker.has_metrics_port()) worker.set_metrics_port(9090);
  if (!worker.has_drain_seconds()) worker.set_drain_seconds(30);
  if (worker.model_name().empty() && !worker.model_path().empty()) {
    const std::filesystem::path path(worker.model_path());
    worker.set_model_name((path.has_filename() ? path : path.parent_path()).filename().string());
  }
  config::Logging& logging = *config.mutable_logging();
  if (logging.level().empty()) logging.set_level("info");
  if (logging.format().empty()) logging.set_format("json");

  if (worker.model_path().empty() && !worker.dummy_weights().empty()) {
    return Wrong("dummy_weights", "no model was given to stand in for (--model)");
  }
  if (worker.masters().empty()) {
    return Wrong("masters", "no master was given (--master, MASTER_NODE)");
  }
  RETURN_IF_ERROR(ParseDevice(worker.device()).status());
  RETURN_IF_ERROR(CheckOneOf("backend", worker.backend(), {"ref", "fast"}));
  RETURN_IF_ERROR(CheckOneOf("dtype", worker.dtype(), {"auto", "bf16", "f16", "f32"}));
  RETURN_IF_ERROR(CheckRange("kv_cache_bytes", worker.kv_cache_bytes(), 0, int64_t{1} << 46));
  RETURN_IF_ERROR(CheckRange("max_context", worker.max_context(), 0, 1 << 24));
  RETURN_IF_ERROR(CheckRange("max_sequences", worker.max_sequences(), 1, 1 << 16));
  RETURN_IF_ERROR(CheckRange("step_tokens", worker.step_tokens(), 1, 1 << 20));
  RETURN_IF_ERROR(CheckRange("threads", worker.threads(), 0, 4096));
  RETURN_IF_ERROR(CheckRange("metrics_port", worker.metrics_port(), -1, 65535));
  RETURN_IF_ERROR(CheckRange("drain_seconds", worker.drain_seconds(), 0, 24 * 3600));
  if (logging.format() != "json" && logging.format() != "text") {
    return absl::FailedPreconditionError("logging.format: json or text");
  }
  return absl::OkStatus();
}

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv,
                                             const std::string& master_node,
                                             const std::string& host) {
  Flags flags;
  CLI::App app{"fathom-worker: runs a model on this machine's device for Fathom's masters"};
  app.set_version_flag("--version", absl::StrCat("fathom-worker ", kVersion));
  app.footer(kFooter);
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) {
      return absl::InvalidArgumentError(absl::StrCat(error.what(), "; see fathom-worker --help"));
    }
    app.exit(error);
    return absl::CancelledError("printed");
  }
  CommandLine line;
  line.dump_config = flags.dump_config;
  if (!flags.config_path.empty()) {
    absl::StatusOr<config::Config> loaded = LoadConfig(flags.config_path);
    if (!loaded.ok()) return absl::FailedPreconditionError(loaded.status().message());
    line.config = *std::move(loaded);
  }
  Override(flags, line.config);
  RETURN_IF_ERROR(FillDefaults(line.config, master_node, host));
  return line;
}

}  // namespace fathom::worker
