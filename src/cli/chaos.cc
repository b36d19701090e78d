// `fathom chaos`: a cluster that is disturbed under load, and what its clients see of it.

#include <stdlib.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/chaos/run.h"
#include "cli/command.h"
#include "cli/load/workload.h"
#include "cli/terminal.h"
#include "common/files.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

struct ChaosFlags {
  ChaosOptions options;
  double seconds = 60;
  double warm_up_s = 0;
  double deadline_s = 60;
  std::string clients = "ours,resuming,plain";
  std::string faults = "kill,stop,cut";
  std::string input_len = "20:400";
  std::string output_len = "50:300";
  std::string inject;
  std::string json_path;
  bool keep = false;
};

absl::Status ReadShape(const ChaosFlags& flags, SimulatedShape& shape) {
  ASSIGN_OR_RETURN(const LengthRange input, ParseLengthRange(flags.input_len));
  ASSIGN_OR_RETURN(const LengthRange output, ParseLengthRange(flags.output_len));
  shape = {.input_low = input.low,
           .input_high = input.high,
           .output_low = output.low,
           .output_high = output.high};
  return absl::OkStatus();
}

// A client is a thread and a few descriptors.
void AllowManyDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

absl::StatusOr<std::string> MakeFolder() {
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::temp_directory_path(error);
  std::string folder = (error ? "/tmp" : parent.string()) + "/fathom-chaos-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return absl::ErrnoToStatus(errno, folder);
  return folder;
}

// What tells why something went wrong stays, and the user is told where.
void LeaveFolder(const std::string& folder, bool keep) {
  std::error_code ignored;
  if (keep && std::filesystem::exists(folder + "/logs", ignored)) {
    std::fprintf(stderr, "fathom: logs and journal are in %s\n", folder.c_str());
  } else {
    std::filesystem::remove_all(folder, ignored);
  }
}

void ShowProgress(const ChaosProgress& progress) {
  std::fprintf(stderr, "\r%.0f s: %lld faults, %lld requests done, %lld running, %lld failed\x1b[K",
               absl::ToDoubleSeconds(progress.since_start), static_cast<long long>(progress.faults),
               static_cast<long long>(progress.done), static_cast<long long>(progress.running),
               static_cast<long long>(progress.failed));
}

absl::Status Run(ChaosFlags& flags, ShutdownSignal& shutdown) {
  ChaosOptions& options = flags.options;
  options.duration = absl::Seconds(flags.seconds);
  options.warm_up = absl::Seconds(flags.warm_up_s);
  options.deadline = absl::Seconds(flags.deadline_s);
  ASSIGN_OR_RETURN(options.clients, ParseClientKinds(flags.clients));
  ASSIGN_OR_RETURN(options.faults, ParseFaultKinds(flags.faults));
  ASSIGN_OR_RETURN(options.injection, ParseInjection(flags.inject));
  const auto& faults = options.faults;
  if (std::any_of(faults.begin(), faults.end(), HitsDatabase) &&
      std::find(faults.begin(), faults.end(), FaultKind::kCut) != faults.end()) {
    return absl::InvalidArgumentError(
        "cut does not go with faults of the database: masters that share one tell workers of each "
        "other, past the links that are cut");
  }
  RETURN_IF_ERROR(ReadShape(flags, options.shape));
  AllowManyDescriptors();
  ASSIGN_OR_RETURN(options.folder, MakeFolder());

  const bool draw = StderrIsTerminal();
  const auto outcome = RunChaos(options, shutdown, [draw](const ChaosProgress& progress) {
    if (draw) ShowProgress(progress);
  });
  if (draw) std::fputs("\n", stderr);
  if (!outcome.ok()) {
    LeaveFolder(options.folder, !absl::IsCancelled(outcome.status()));
    return outcome.status();
  }
  std::fputs(ChaosTable(outcome->result).c_str(), stdout);
  std::fflush(stdout);
  const std::vector<std::string> broken = BrokenPromises(outcome->result);
  LeaveFolder(options.folder, !broken.empty() || flags.keep);
  if (!flags.json_path.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(flags.json_path, ChaosJson(outcome->result)));
  }
  if (outcome->interrupted) return absl::CancelledError("interrupted");
  if (broken.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("promises were broken: ", absl::StrJoin(broken, "; ")));
}

void AddClusterFlags(CLI::App& command, ChaosFlags& flags) {
  ChaosOptions& options = flags.options;
  command.add_option("--masters", options.masters, "Masters")
      ->capture_default_str()
      ->check(CLI::Range(1, 8));
  command.add_option("--workers", options.workers, "Workers")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  command.add_option("--model", options.model, "Model directory; default models/tiny")
      ->type_name("DIR");
  command.add_option("--device", options.device, "cpu, cuda or cuda:N, the Nth GPU")
      ->capture_default_str();
  command
      .add_option("--kv-cache-bytes", options.kv_cache_bytes,
                  "Memory of each worker's KV cache; default a share of what is free")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 50));
  CLI::Option* const simulated =
      command
          .add_option("--simulated", options.simulated,
                      "Workers without a device that take the time of this model (free, h200-8b, "
                      "free,step_us=4000); needs a build of the sources")
          ->type_name("TIMEMODEL");
  command
      .add_option("--input-len", flags.input_len,
                  "Tokens of a prompt to simulated workers, N or LOW:HIGH")
      ->capture_default_str()
      ->needs(simulated);
  command.add_option("--output-len", flags.output_len, "Tokens of their answers, N or LOW:HIGH")
      ->capture_default_str()
      ->needs(simulated);
  command
      .add_option("--context", options.context,
                  "Tokens a sequence may have at simulated workers; default the model's")
      ->check(CLI::Range(16, 1 << 20))
      ->needs(simulated);
}

void AddDisturbanceFlags(CLI::App& command, ChaosFlags& flags) {
  ChaosOptions& options = flags.options;
  command
      .add_option(
          "--faults", flags.faults,
          "What happens, in turn: kill, stop, cut, slow, restart (of workers), master-kill, "
          "master-stop, master-restart, both (a worker and a master), rolling (a restart of "
          "everything), database-restart, database-stop (of a PostgreSQL that all masters share); "
          "or none")
      ->capture_default_str()
      ->type_name("LIST");
  command.add_option("--rate", options.faults_per_second, "Faults a second, as far as they fit")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 100.0));
  command
      .add_option(
          "--clients", flags.clients,
          "Who asks: ours (gRPC, resumes), resuming (HTTP, posts again with Last-Event-ID), "
          "plain (HTTP, takes what comes)")
      ->capture_default_str()
      ->type_name("LIST");
  command.add_option("--concurrency", options.concurrency, "Requests at once, of all clients")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command.add_option("--deadline", flags.deadline_s, "Seconds a request may take")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 3600.0));
  command.add_flag("--netns", options.own_network,
                   "Cut by dropping packets, in a network namespace of the run's own (root, ip, "
                   "tc); else by relays that stop to carry bytes");
  command
      .add_option("--busy-threads", options.busy_threads,
                  "Threads that compute beside the cluster, to see whether it takes slowness for "
                  "death")
      ->capture_default_str()
      ->check(CLI::Range(0, 256));
  command.add_option("--seed", options.seed, "Same seed, same questions and choice of victims")
      ->capture_default_str();
}

}  // namespace

void AddChaosCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<ChaosFlags>();
  CLI::App* command = app.add_subcommand(
      "chaos",
      "Disturb a cluster of its own under load and count what clients lose. Exits with 1 when a "
      "promise was broken");
  command->add_option("--seconds", flags->seconds, "How long to disturb")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 86400.0));
  command->add_option("--warm-up", flags->warm_up_s, "Seconds of load before the first fault")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  AddClusterFlags(*command, *flags);
  AddDisturbanceFlags(*command, *flags);
  command->add_option("--json", flags->json_path, "Also write the result there")->type_name("FILE");
  command
      ->add_option("--journal", flags->options.journal_path,
                   "Write down every request and fault there, as they happen (JSON Lines)")
      ->type_name("FILE");
  command->add_flag("--keep", flags->keep,
                    "Keep the cluster's folder with its logs; a run that fails keeps it anyway");
  command
      ->add_flag("--migration,!--no-migration", flags->options.migration,
                 "To see this check work: without migration requests are lost with their workers")
      ->group("Self-test");
  command
      ->add_option("--inject", flags->inject,
                   "To see this check work: one in ten streams is read with a piece that comes "
                   "twice, not at all, or out of place")
      ->check(CLI::IsMember({"duplicate", "gap", "swap"}))
      ->group("Self-test");
  command->callback(
      [flags, &context] { context.exit_code = Report(Run(*flags, context.shutdown)); });
}

}  // namespace fathom::cli
