#include "cli/chaos/run.h"

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stop_token>
#include <thread>

#include "absl/strings/str_cat.h"
#include "cli/chaos/cluster_view.h"
#include "cli/chaos/disturber.h"
#include "cli/chaos/journal.h"
#include "cli/chaos/load.h"
#include "cli/chaos/packet_cuts.h"
#include "cli/chaos/postgresql.h"
#include "cli/chaos/relay.h"
#include "cli/cluster/local_cluster.h"
#include "cli/cluster/programs.h"
#include "cli/cluster/state_dir.h"
#include "common/digest.h"
#include "common/files.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr absl::Duration kTick = absl::Milliseconds(5);
constexpr absl::Duration kProgressEvery = absl::Milliseconds(500);
constexpr absl::Duration kCheckEvery = absl::Milliseconds(250);
constexpr absl::Duration kDrainLimit = absl::Seconds(10);
constexpr absl::Duration kBackLimit = absl::Seconds(30);
// More than a lease, and the time until it is asked for again.
constexpr absl::Duration kLeaderLimit = absl::Seconds(15);
constexpr char kQuota[] = "1000000000";  // a minute
constexpr char kSimulatedWorker[] = "fathom-sim-worker";
// What a worker may take for what runs when it is told to leave; then it goes on elsewhere.
constexpr char kWorkerDrainSeconds[] = "1";

// The model with another length of context: the same files, another config.
absl::StatusOr<std::string> WithContext(const std::string& model, int32_t context,
                                        const std::string& folder) {
  std::string path = model;
  if (path.empty()) {
    ASSIGN_OR_RETURN(path, FindDefaultModel());
  }
  const fs::path made = fs::path(folder) / "model";
  std::error_code error;
  fs::create_directories(made, error);
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.path().filename() == "config.json") continue;
    fs::create_symlink(fs::canonical(entry.path(), error), made / entry.path().filename(), error);
  }
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path + "/config.json", size_t{1} << 20));
  boost::system::error_code wrong;
  json::value config = json::parse(text, wrong);
  if (wrong || !config.is_object()) return absl::DataLossError(path + "/config.json is damaged");
  config.get_object()["max_position_embeddings"] = context;
  RETURN_IF_ERROR(WriteFileAtomically(made / "config.json", json::serialize(config)));
  return made.string();
}

absl::StatusOr<ClusterOptions> MakeClusterOptions(const ChaosOptions& options, Relay& relay,
                                                  PacketCuts* packet_cuts,
                                                  const Postgresql* database) {
  ClusterOptions cluster{.model = options.model,
                         .model_name = "chaos",
                         .masters = options.masters,
                         .workers = options.workers,
                         .device = options.device,
                         .kv_cache_bytes = options.kv_cache_bytes};
  cluster.worker_flags = {"--drain-seconds", kWorkerDrainSeconds};
  if (options.simulated.empty()) {
    cluster.worker_flags.emplace_back("--batch-invariant");
  } else {
    if (const auto found = FindProgram(kSimulatedWorker); !found.ok()) {
      return absl::NotFoundError(
          absl::StrCat("--simulated needs ", kSimulatedWorker,
                       " beside fathom; releases come without it, a build of the sources has it"));
    }
    cluster.worker_program = kSimulatedWorker;
    cluster.worker_flags.insert(cluster.worker_flags.end(), {"--time-model", options.simulated});
    if (options.context > 0) {
      ASSIGN_OR_RETURN(cluster.model, WithContext(options.model, options.context, options.folder));
    }
  }
  if (!options.migration) {
    const std::string path = options.folder + "/master.yaml";
    RETURN_IF_ERROR(WriteFileAtomically(path, "master:\n  migration: false\n"));
    cluster.master_flags = {"--config", path};
  }
  if (database != nullptr) {
    // Masters that share one tell workers of each other, past whatever links they were given.
    cluster.database = database->url();
    return cluster;
  }
  cluster.links = [&relay, packet_cuts](int worker, const std::vector<uint16_t>& link_ports)
      -> absl::StatusOr<std::vector<std::string>> {
    std::vector<std::string> addresses;
    for (size_t m = 0; m < link_ports.size(); ++m) {
      const int group = LinkGroup(worker, static_cast<int>(m));
      ASSIGN_OR_RETURN(const uint16_t port, relay.Open(link_ports[m], group));
      if (packet_cuts != nullptr) packet_cuts->Name(group, port);
      addresses.push_back(absl::StrCat("127.0.0.1:", port));
    }
    return addresses;
  };
  return cluster;
}

LoadSetup MakeLoadSetup(const ChaosOptions& options, const LocalCluster& cluster,
                        const std::string& key) {
  LoadSetup setup{.clients = options.clients,
                  .concurrency = options.concurrency,
                  .seed = options.seed,
                  .run_name = absl::StrCat("chaos-", RandomHex(*Random::Real(), 4)),
                  .injection = options.injection,
                  .simulated = !options.simulated.empty(),
                  .shape = options.shape};
  setup.asker.key = key;
  setup.asker.model = cluster.info().model;
  setup.asker.deadline = options.deadline;
  for (const MasterPorts& ports : cluster.masters()) {
    setup.asker.masters.push_back({.http = {.host = "127.0.0.1", .port = ports.http, .base = ""},
                                   .grpc = absl::StrCat("127.0.0.1:", ports.grpc)});
  }
  return setup;
}

// Threads that do nothing but compute, until they are destroyed.
std::vector<std::jthread> KeepBusy(int threads) {
  std::vector<std::jthread> busy;
  for (int i = 0; i < threads; ++i) {
    busy.emplace_back([](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
      }
    });
  }
  return busy;
}

// Looks again and again whether the masters' counts add up.
class ConservationWatch {
 public:
  ConservationWatch(ClusterView& view, int masters)
      : thread_([this, &view, masters](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            for (int m = 0; m < masters; ++m) Look(view, m);
            absl::SleepFor(kCheckEvery);
          }
        }) {}

  // Once, when nothing looks any more.
  void Finish(ClusterChecks& checks) {
    thread_.request_stop();
    thread_.join();
    checks.conservation_checks = checks_;
    checks.conservation_broken = broken_;
  }

 private:
  void Look(ClusterView& view, int master) {
    const absl::Status status = view.CheckConservation(master);
    if (absl::IsUnavailable(status)) return;
    ++checks_;
    if (!status.ok() && broken_.empty()) {
      broken_ = absl::StrCat("master ", master, ": ", status.message());
    }
  }

  int64_t checks_ = 0;  // of the thread, as is the next
  std::string broken_;
  std::jthread thread_;
};

void CheckHistories(const RunTally& tally, ClusterView& view, ClusterChecks& checks) {
  for (const std::string& id : tally.fault_ids) {
    const auto history = view.Explain(id);
    if (!history.ok()) continue;  // its master has been killed since, or has forgotten it
    ++checks.histories;
    const absl::Status status = CheckHistory(*history);
    if (!status.ok() && checks.history_broken.empty()) {
      checks.history_broken = absl::StrCat(id, ": ", status.message());
    }
  }
}

// Quotas that nobody reaches: their shares are settled with the database all the same.
absl::Status GiveKeyQuotas(const StateDir& state, const std::string& key) {
  return WriteFileAtomically(
      state.keys_file(),
      absl::StrCat("local:", Sha256Hex(key), ":admin::::", kQuota, ":", kQuota, "\n"), 0600);
}

class Run {
 public:
  Run(const ChaosOptions& options, ShutdownSignal& shutdown,
      const std::function<void(const ChaosProgress&)>& on_progress)
      : options_(options), shutdown_(shutdown), on_progress_(on_progress), random_(options.seed) {}

  absl::StatusOr<ChaosOutcome> Go() {
    ChaosOutcome outcome;
    ASSIGN_OR_RETURN(const StateDir state, StateDir::Open(options_.folder));
    ASSIGN_OR_RETURN(const std::string key, state.EnsureKey(*Random::Real()));
    // Before any thread of ours: those that are there stay in the old network.
    std::optional<PacketCuts> packet_cuts;
    if (options_.own_network) {
      const std::string log_path = options_.folder + "/network.log";
      RETURN_IF_ERROR(PacketCuts::EnterOwnNetwork(log_path));
      packet_cuts.emplace(log_path);
    }
    PacketCuts* const cuts = packet_cuts ? &*packet_cuts : nullptr;
    relay_.emplace();
    if (std::any_of(options_.faults.begin(), options_.faults.end(), HitsDatabase)) {
      ASSIGN_OR_RETURN(database_, Postgresql::Start(options_.folder, shutdown_));
      RETURN_IF_ERROR(GiveKeyQuotas(state, key));
    }
    ASSIGN_OR_RETURN(ClusterOptions cluster_options,
                     MakeClusterOptions(options_, *relay_, cuts, database_.get()));
    ASSIGN_OR_RETURN(cluster_, LocalCluster::Start(std::move(cluster_options), state, shutdown_));
    ClusterView view(cluster_->masters(), key);
    const LoadSetup setup = MakeLoadSetup(options_, *cluster_, key);
    QuestionBook book(setup);
    RETURN_IF_ERROR(book.Learn(clock_));

    const std::string journal_path =
        options_.journal_path.empty() ? options_.folder + "/journal.jsonl" : options_.journal_path;
    ASSIGN_OR_RETURN(const std::unique_ptr<Journal> journal, Journal::Create(journal_path));
    start_ns_ = clock_.MonotonicNs();
    outcome.result.setup_json = SetupJson();
    journal->Add(absl::StrCat(R"({"record":"run","setup":)", outcome.result.setup_json, "}\n"));
    const std::vector<std::jthread> busy = KeepBusy(options_.busy_threads);
    ConservationWatch conservation(view, options_.masters);
    {
      ChaosLoad load(setup, book, *journal, clock_, start_ns_);
      Disturber disturber({.kinds = options_.faults,
                           .per_second = options_.faults_per_second,
                           .masters = options_.masters,
                           .workers = options_.workers,
                           .warm_up = options_.warm_up},
                          *cluster_, view, *relay_, cuts, database_.get(), *journal, clock_,
                          random_, start_ns_);
      if (absl::Status status = Disturb(load, disturber); !status.ok()) {
        // What is asked ends with the cluster.
        load.Abandon();
        cluster_.reset();
        return status;
      }
      load.Finish();
    }
    ClusterChecks& checks = outcome.result.checks;
    checks.migrations = view.Migrations();
    checks.untaken = view.Untaken();
    conservation.Finish(checks);
    if (database_ != nullptr) checks.leaders = AwaitLeader(view);
    checks.crashes = cluster_->crashes();
    RETURN_IF_ERROR(journal->Flush());
    std::ifstream lines(journal_path);
    ASSIGN_OR_RETURN(outcome.result.tally, TallyJournal(lines));
    CheckHistories(outcome.result.tally, view, checks);
    outcome.interrupted = shutdown_.count() > 0;
    cluster_->Drain(shutdown_, kDrainLimit);
    return outcome;
  }

 private:
  // Load and faults for the run's time, then until all is well again and every request has ended.
  absl::Status Disturb(ChaosLoad& load, Disturber& disturber) {
    const absl::Duration start = absl::Nanoseconds(start_ns_);
    absl::Duration report_at = start;
    absl::Duration give_up = absl::InfiniteDuration();
    while (true) {
      shutdown_.WaitFor(kTick);
      const absl::Duration now = clock_.Monotonic();
      RETURN_IF_ERROR(cluster_->Tend());
      RETURN_IF_ERROR(disturber.Tick());
      if (now >= report_at) {
        report_at = now + kProgressEvery;
        on_progress_({.since_start = now - start,
                      .done = load.done(),
                      .failed = load.failed(),
                      .running = load.running(),
                      .faults = disturber.faults()});
      }
      const bool over =
          now - start >= options_.warm_up + options_.duration || shutdown_.count() > 0;
      if (over && give_up == absl::InfiniteDuration()) {
        load.Stop();
        disturber.Heal();
        give_up = now + options_.deadline + kBackLimit;
      }
      if (over && disturber.quiet() && load.running() == 0) return absl::OkStatus();
      if (shutdown_.count() > 1) return absl::CancelledError("interrupted");
      // Requests end at their own deadline, whatever the cluster does.
      if (now >= give_up) {
        return absl::DeadlineExceededError("the cluster did not come back after the last fault");
      }
    }
  }

  // How many masters lead in the end: one, or what it is when the time is over.
  int64_t AwaitLeader(ClusterView& view) {
    const absl::Duration give_up = clock_.Monotonic() + kLeaderLimit;
    while (true) {
      const int64_t leaders = view.Leaders();
      if (leaders == 1 || clock_.Monotonic() >= give_up || shutdown_.count() > 1) return leaders;
      absl::SleepFor(kCheckEvery);
    }
  }

  std::string SetupJson() const {
    json::array clients;
    for (const ClientKind kind : options_.clients) clients.emplace_back(NameOf(kind));
    json::array faults;
    for (const FaultKind kind : options_.faults) faults.emplace_back(NameOf(kind));
    json::object setup{{"masters", options_.masters},
                       {"workers", options_.workers},
                       {"simulated", options_.simulated},
                       {"device", options_.device},
                       {"duration_s", absl::ToDoubleSeconds(options_.duration)},
                       {"warm_up_s", absl::ToDoubleSeconds(options_.warm_up)},
                       {"concurrency", options_.concurrency},
                       {"faults_per_second", options_.faults_per_second},
                       {"deadline_s", absl::ToDoubleSeconds(options_.deadline)},
                       {"seed", options_.seed},
                       {"busy_threads", options_.busy_threads},
                       {"own_network", options_.own_network},
                       {"migration", options_.migration}};
    setup["clients"] = std::move(clients);
    setup["faults"] = std::move(faults);
    return json::serialize(setup);
  }

  const ChaosOptions& options_;
  ShutdownSignal& shutdown_;
  const std::function<void(const ChaosProgress&)>& on_progress_;
  const Clock& clock_ = *Clock::Real();
  SeededRandom random_;
  std::optional<Relay> relay_;
  std::unique_ptr<Postgresql> database_;  // null: not disturbed
  std::unique_ptr<LocalCluster> cluster_;
  int64_t start_ns_ = 0;
};

}  // namespace

absl::StatusOr<ChaosOutcome> RunChaos(
    const ChaosOptions& options, ShutdownSignal& shutdown,
    const std::function<void(const ChaosProgress&)>& on_progress) {
  return Run(options, shutdown, on_progress).Go();
}

}  // namespace fathom::cli
