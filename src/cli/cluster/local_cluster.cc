#include "cli/cluster/local_cluster.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "cli/cluster/programs.h"
#include "cli/http_client/http_client.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr absl::Duration kStartLimit = absl::Minutes(5);  // large models take their time to load
constexpr absl::Duration kPollPause = absl::Milliseconds(5);
constexpr size_t kLogTailBytes = 2000;
constexpr size_t kLogBytesMax = size_t{1} << 30;

absl::StatusOr<uint16_t> PortFrom(const std::string& ports_json, std::string_view name) {
  boost::system::error_code error;
  const json::value value = json::parse(ports_json, error);
  const json::value* port =
      error || !value.is_object() ? nullptr : value.get_object().if_contains(name);
  if (port == nullptr || !port->is_int64() || port->get_int64() < 1 || port->get_int64() > 65535) {
    return absl::InternalError(
        absl::StrCat("a ports file lacks '", ToAbsl(name), "': ", ports_json));
  }
  return static_cast<uint16_t>(port->get_int64());
}

void AddLinkFlags(const TlsFiles& files, std::vector<std::string>& argv) {
  argv.insert(argv.end(),
              {"--link-ca", files.ca, "--link-cert", files.certificate, "--link-key", files.key});
}

// Memory that is free now, for sharing between workers on one machine.
int64_t AvailableMemoryBytes() {
  return static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(ClusterOptions options,
                                                                  const StateDir& state,
                                                                  ShutdownSignal& shutdown) {
  if (options.model.empty()) {
    ASSIGN_OR_RETURN(options.model, FindDefaultModel());
  }
  std::error_code error;
  const std::filesystem::path model = std::filesystem::canonical(options.model, error);
  if (error) return absl::NotFoundError(absl::StrCat(options.model, ": ", error.message()));
  options.model = model.string();
  if (options.model_name.empty()) options.model_name = model.filename().string();
  std::unique_ptr<LocalCluster> cluster(new LocalCluster(std::move(options), state));
  RETURN_IF_ERROR(cluster->StartAll(shutdown));
  return cluster;
}

absl::Status LocalCluster::StartAll(ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(const std::string master_program, FindProgram("fathom-master"));
  ASSIGN_OR_RETURN(worker_program_, FindProgram("fathom-worker"));
  std::error_code error;
  std::filesystem::create_directories(state_.File("logs"), error);
  if (error)
    return absl::PermissionDeniedError(absl::StrCat(state_.File("logs"), ": ", error.message()));

  ASSIGN_OR_RETURN(certificates_, IssuePassingCertificates(state_.File("link"), clock_.Now()));

  // It names masters of another cluster, which our workers must not join.
  unsetenv("MASTER_NODE");

  const auto master_arguments = [&](uint16_t http, uint16_t grpc, uint16_t admin, uint16_t link,
                                    uint16_t metrics) {
    std::vector<std::string> argv = {
        master_program,        "--bind",       "127.0.0.1",        "--http-port",
        absl::StrCat(http),    "--grpc-port",  absl::StrCat(grpc), "--admin-port",
        absl::StrCat(admin),   "--link-port",  absl::StrCat(link), "--metrics-port",
        absl::StrCat(metrics), "--model",      options_.model,     "--model-name",
        options_.model_name,   "--ports-file", PortsPath("master")};
    AddLinkFlags(certificates_.master, argv);
    if (options_.open) {
      argv.push_back("--open");
    } else {
      argv.insert(argv.end(), {"--keys-file", state_.keys_file()});
    }
    return argv;
  };

  members_.resize(static_cast<size_t>(options_.workers) + 1);
  Member& master = members_[0];
  master.name = "master";
  master.argv = master_arguments(options_.http_port, options_.grpc_port, 0, 0, 0);
  RETURN_IF_ERROR(StartMember(master));
  ASSIGN_OR_RETURN(const std::string ports, PortsOf(master, shutdown));
  ASSIGN_OR_RETURN(const uint16_t http_port, PortFrom(ports, "http"));
  ASSIGN_OR_RETURN(const uint16_t grpc_port, PortFrom(ports, "grpc"));
  ASSIGN_OR_RETURN(const uint16_t admin_port, PortFrom(ports, "admin"));
  ASSIGN_OR_RETURN(const uint16_t link_port, PortFrom(ports, "link"));
  ASSIGN_OR_RETURN(const uint16_t metrics_port, PortFrom(ports, "metrics"));
  // A restarted master must be found again where it was.
  master.argv = master_arguments(http_port, grpc_port, admin_port, link_port, metrics_port);

  for (int i = 0; i < options_.workers; ++i) {
    Member& worker = members_[static_cast<size_t>(i) + 1];
    worker.name = absl::StrCat("worker-", i);
    worker.argv = WorkerArguments(i, link_port);
    RETURN_IF_ERROR(StartMember(worker));
  }
  for (size_t i = 1; i < members_.size(); ++i) {
    ASSIGN_OR_RETURN(const std::string worker_ports, PortsOf(members_[i], shutdown));
    ASSIGN_OR_RETURN(const uint16_t worker_metrics, PortFrom(worker_ports, "metrics"));
    RETURN_IF_ERROR(WaitReady(members_[i], worker_metrics, shutdown));
  }
  RETURN_IF_ERROR(WaitReady(members_[0], http_port, shutdown));

  info_.pid = getpid();
  info_.http_url = absl::StrCat("http://127.0.0.1:", http_port);
  info_.grpc_address = absl::StrCat("127.0.0.1:", grpc_port);
  info_.admin_address = absl::StrCat("127.0.0.1:", admin_port);
  info_.model = options_.model_name;
  info_.open = options_.open;
  return absl::OkStatus();
}

std::vector<std::string> LocalCluster::WorkerArguments(int index, uint16_t link_port) const {
  const std::string name = absl::StrCat("worker-", index);
  std::vector<std::string> argv = {worker_program_,
                                   "--master",
                                   absl::StrCat("127.0.0.1:", link_port),
                                   "--model",
                                   options_.model,
                                   "--model-name",
                                   options_.model_name,
                                   "--id",
                                   name,
                                   "--device",
                                   options_.device,
                                   "--metrics-port",
                                   "0",
                                   "--ports-file",
                                   PortsPath(name),
                                   "--exit-with-parent"};
  AddLinkFlags(certificates_.worker, argv);
  if (!options_.backend.empty()) argv.insert(argv.end(), {"--backend", options_.backend});
  if (!options_.dummy_weights.empty()) {
    argv.insert(argv.end(), {"--dummy-weights", options_.dummy_weights});
  }
  if (!options_.dtype.empty()) argv.insert(argv.end(), {"--dtype", options_.dtype});
  if (options_.workers > 1 && options_.device == "cpu") {
    // Each would take the whole machine.
    const auto cores = static_cast<int>(std::thread::hardware_concurrency());
    argv.insert(argv.end(),
                {"--threads", absl::StrCat(std::max(1, cores / options_.workers)),
                 "--kv-cache-bytes", absl::StrCat(AvailableMemoryBytes() / 4 / options_.workers)});
  }
  return argv;
}

std::string LocalCluster::LogPath(const Member& member) const {
  return state_.File(absl::StrCat("logs/", member.name, ".log"));
}

std::string LocalCluster::PortsPath(const std::string& name) const {
  return state_.File(absl::StrCat(name, ".ports.json"));
}

absl::Status LocalCluster::StartMember(Member& member) {
  unlink(PortsPath(member.name).c_str());
  if (!member.process) unlink(LogPath(member).c_str());
  ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::Start(member.argv, LogPath(member)));
  member.process = std::make_unique<ChildProcess>(std::move(process));
  member.started_at = clock_.Monotonic();
  return absl::OkStatus();
}

absl::Status LocalCluster::CheckAlive(Member& member) {
  const auto& end = member.process->Poll();
  if (!end) return absl::OkStatus();
  std::string log = ReadFile(LogPath(member), kLogBytesMax).value_or("");
  if (log.size() > kLogTailBytes) log.erase(0, log.size() - kLogTailBytes);
  return absl::InternalError(absl::StrCat("the ", member.name, " ended while starting (", *end,
                                          "); its last words:\n", log));
}

absl::StatusOr<std::string> LocalCluster::PortsOf(Member& member, ShutdownSignal& shutdown) {
  const absl::Duration deadline = clock_.Monotonic() + kStartLimit;
  while (clock_.Monotonic() < deadline) {
    absl::StatusOr<std::string> text = ReadFile(PortsPath(member.name), 4096);
    if (text.ok()) return text;
    RETURN_IF_ERROR(CheckAlive(member));
    if (shutdown.WaitFor(kPollPause)) return absl::CancelledError("interrupted");
  }
  return absl::DeadlineExceededError(absl::StrCat("the ", member.name, " did not come up"));
}

absl::Status LocalCluster::WaitReady(Member& member, uint16_t port, ShutdownSignal& shutdown) {
  HttpClient client(Url{.host = "127.0.0.1", .port = port, .base = ""}, HttpOptions{});
  const absl::Duration deadline = clock_.Monotonic() + kStartLimit;
  while (clock_.Monotonic() < deadline) {
    const auto response = client.Get("/ready");
    if (response.ok() && response->status == 200) return absl::OkStatus();
    RETURN_IF_ERROR(CheckAlive(member));
    if (shutdown.WaitFor(kPollPause)) return absl::CancelledError("interrupted");
  }
  return absl::DeadlineExceededError(absl::StrCat("the ", member.name, " did not become ready"));
}

absl::Status LocalCluster::Tend() {
  for (Member& member : members_) RETURN_IF_ERROR(TendMember(member));
  return absl::OkStatus();
}

absl::Status LocalCluster::TendMember(Member& member) {
  const absl::Duration now = clock_.Monotonic();
  if (member.start_next != absl::ZeroDuration()) {
    if (now < member.start_next) return absl::OkStatus();
    member.start_next = absl::ZeroDuration();
    return StartMember(member);
  }
  const auto& end = member.process->Poll();
  if (!end) return absl::OkStatus();
  const auto pause = member.policy.OnCrash(now - member.started_at);
  if (!pause) {
    return absl::InternalError(absl::StrCat("the ", member.name, " keeps crashing (", *end,
                                            "); its log is ", LogPath(member)));
  }
  std::fprintf(stderr, "fathom: the %s ended (%s); starting it again in %d ms\n",
               member.name.c_str(), end->c_str(),
               static_cast<int>(absl::ToInt64Milliseconds(*pause)));
  member.start_next = now + *pause;
  return absl::OkStatus();
}

void LocalCluster::Drain(ShutdownSignal& shutdown, absl::Duration limit) {
  const int count_before = shutdown.count();
  StopMembers(0, 1, shutdown, count_before, limit);
  StopMembers(1, members_.size(), shutdown, count_before, limit);
  members_.clear();
}

void LocalCluster::StopMembers(size_t first, size_t last, ShutdownSignal& shutdown,
                               int count_before, absl::Duration limit) {
  last = std::min(last, members_.size());
  const absl::Duration deadline = clock_.Monotonic() + limit;
  for (size_t i = first; i < last; ++i) {
    if (members_[i].process) members_[i].process->Signal(SIGTERM);
  }
  const auto any_runs = [&] {
    return std::any_of(members_.begin() + static_cast<int64_t>(first),
                       members_.begin() + static_cast<int64_t>(last),
                       [](Member& m) { return m.process && !m.process->Poll(); });
  };
  while (any_runs() && clock_.Monotonic() < deadline && shutdown.count() == count_before) {
    absl::SleepFor(kPollPause);
  }
  // What still runs is killed by its destructor.
  for (size_t i = first; i < last; ++i) members_[i].process.reset();
}

}  // namespace fathom::cli
