#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "cli/cluster/local_cluster.h"
#include "cli/cluster/state_dir.h"
#include "cli/command.h"
#include "cli/server.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kTendPause = absl::Milliseconds(50);
constexpr absl::Duration kDrainLimit = absl::Minutes(10);

struct UpFlags {
  ClusterOptions cluster{.http_port = 8000, .grpc_port = 8001};
  std::string state_dir;
};

void PrintReady(const LocalCluster& cluster, const UpFlags& flags, absl::Duration took) {
  const ClusterInfo& info = cluster.info();
  const std::string state = flags.state_dir.empty() ? "" : " --state-dir " + flags.state_dir;
  const auto count = [](int n, const char* what) {
    return absl::StrCat(n, " ", what, n == 1 ? "" : "s");
  };
  const int masters = flags.cluster.masters;
  std::printf("Fathom is ready after %.0f ms: model %s, %s%s on %s\n\n",
              absl::ToDoubleMilliseconds(took), info.model.c_str(),
              masters == 1 ? "" : (count(masters, "master") + ", ").c_str(),
              count(flags.cluster.workers, "worker").c_str(), flags.cluster.device.c_str());
  std::printf("  OpenAI HTTP  %s/v1\n", info.http_url.c_str());
  std::printf("  Chat page    %s/\n", info.http_url.c_str());
  std::printf("  gRPC         %s\n", info.grpc_address.c_str());
  for (size_t i = 1; i < cluster.masters().size(); ++i) {
    const MasterPorts& ports = cluster.masters()[i];
    std::printf("  master %zu     http://127.0.0.1:%d/v1, gRPC 127.0.0.1:%d\n", i + 1, ports.http,
                ports.grpc);
  }
  const std::string key_command = absl::StrCat("fathom key", state);
  std::string header;
  if (info.open) {
    std::printf("  key          none needed (--open)\n");
  } else {
    std::printf("  key          %s\n", key_command.c_str());
    header = absl::StrCat(" -H \"Authorization: Bearer $(", key_command, ")\"");
  }
  std::printf(
      "\n  curl %s/v1/chat/completions%s -H 'Content-Type: application/json' \\\n"
      "    -d '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": \"What is "
      "Fathom?\"}]}'\n\n",
      info.http_url.c_str(), header.c_str(), info.model.c_str());
  std::printf("Chat: fathom chat%s   Stop: Ctrl-C (running work ends first; twice: at once)\n",
              state.c_str());
  std::fflush(stdout);
}

absl::Status Run(const UpFlags& flags, ShutdownSignal& shutdown) {
  const Clock& clock = *Clock::Real();
  const absl::Duration start = clock.Monotonic();
  ASSIGN_OR_RETURN(const std::string path, StateDirPath(flags.state_dir));
  ASSIGN_OR_RETURN(const StateDir state, StateDir::Open(path));
  ASSIGN_OR_RETURN(const std::unique_ptr<StateDir::Lock> lock, state.TryLock());
  state.RemoveCluster();
  RETURN_IF_ERROR(state.EnsureKey(*Random::Real()).status());
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalCluster> cluster,
                   LocalCluster::Start(flags.cluster, state, shutdown));
  RETURN_IF_ERROR(state.WriteCluster(cluster->info()));
  PrintReady(*cluster, flags, clock.Monotonic() - start);

  absl::Status status;
  while (status.ok() && !shutdown.WaitFor(kTendPause)) status = cluster->Tend();
  state.RemoveCluster();
  if (status.ok()) std::fprintf(stderr, "fathom: stopping; running work ends first\n");
  cluster->Drain(shutdown, kDrainLimit);
  return status;
}

}  // namespace

void AddUpCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<UpFlags>();
  CLI::App* command = app.add_subcommand("up", "Run a cluster on this machine until Ctrl-C");
  ClusterOptions& cluster = flags->cluster;
  command->add_option("--model", cluster.model, "Model directory; default models/tiny")
      ->type_name("DIR");
  command->add_option("--model-name", cluster.model_name, "Its name; default the directory's")
      ->type_name("NAME");
  command
      ->add_option("--masters", cluster.masters,
                   "Masters; each has ports of its own and all of the workers")
      ->capture_default_str()
      ->check(CLI::Range(1, 8));
  command->add_option("--workers", cluster.workers, "Workers")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  command->add_option("--port", cluster.http_port, "HTTP port; 0 is any free one")
      ->capture_default_str();
  command->add_option("--grpc-port", cluster.grpc_port, "gRPC port; 0 is any free one")
      ->capture_default_str();
  command->add_option("--device", cluster.device, "cpu, cuda or cuda:N, the Nth GPU")
      ->capture_default_str()
      ->check(CLI::Validator(
          [](const std::string& device) {
            const bool known = device == "cpu" || device == "cuda" || device.starts_with("cuda:");
            return known ? std::string() : "is not cpu, cuda or cuda:N";
          },
          "DEVICE"));
  command->add_option("--backend", cluster.backend, "ref or fast; default the worker's")
      ->check(CLI::IsMember({"ref", "fast"}));
  command
      ->add_option("--dtype", cluster.dtype, "bf16, f16, f32 or auto; default as the weights are")
      ->check(CLI::IsMember({"bf16", "f16", "f32", "auto"}));
  command
      ->add_option("--dummy-weights", cluster.dummy_weights,
                   "Random weights of this shape instead of the model's, for measurements")
      ->type_name("SHAPE");
  command->add_flag("--open", cluster.open, "Ask for no key (loopback only)");
  AddStateDirFlag(*command, flags->state_dir);
  command->callback(
      [flags, &context] { context.exit_code = Report(Run(*flags, context.shutdown)); });
}

}  // namespace fathom::cli
