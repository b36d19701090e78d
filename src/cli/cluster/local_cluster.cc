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
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/cluster/programs.h"
#include "cli/http_client/http_client.h"
#include "common/files.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr absl::Duration kStartLimit = absl::Minutes(5);  // large models take their time to load
constexpr absl::Duration kPollPause = absl::Milliseconds(5);
constexpr char kSecretFile[] = "cluster-secret";
constexpr char kDatabaseFile[] = "state.db";
constexpr size_t kSecretBytes = 32;
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
  ASSIGN_OR_RETURN(master_program_, FindProgram("fathom-master"));
  ASSIGN_OR_RETURN(worker_program_, FindProgram(options_.worker_program));
  std::error_code error;
  std::filesystem::create_directories(state_.File("logs"), error);
  if (error)
    return absl::PermissionDeniedError(absl::StrCat(state_.File("logs"), ": ", error.message()));

  ASSIGN_OR_RETURN(certificates_, IssuePassingCertificates(state_.File("link"), clock_.Now()));

  RETURN_IF_ERROR(WriteFileAtomically(state_.File(kSecretFile),
                                      RandomHex(*Random::Real(), kSecretBytes) + "\n", 0600));

  // It names masters of another cluster, which our workers must not join.
  unsetenv("MASTER_NODE");

  members_.resize(static_cast<size_t>(options_.masters) + static_cast<size_t>(options_.workers));
  RETURN_IF_ERROR(StartMasters(shutdown));
  RETURN_IF_ERROR(StartWorkers(shutdown));
  for (int i = 0; i < options_.masters; ++i) {
    RETURN_IF_ERROR(
        WaitReady(MemberAt(Role::kMaster, i), masters_[static_cast<size_t>(i)].http, shutdown));
  }
  info_.pid = getpid();
  info_.http_url = absl::StrCat("http://127.0.0.1:", masters_[0].http);
  info_.grpc_address = absl::StrCat("127.0.0.1:", masters_[0].grpc);
  info_.admin_address = absl::StrCat("127.0.0.1:", masters_[0].admin);
  info_.model = options_.model_name;
  info_.open = options_.open;
  return absl::OkStatus();
}

absl::Status LocalCluster::StartMasters(ShutdownSignal& shutdown) {
  const auto port_of = [](uint16_t first, int i) {
    return static_cast<uint16_t>(first == 0 ? 0 : first + 2 * i);
  };
  for (int i = 0; i < options_.masters; ++i) {
    Member& master = MemberAt(Role::kMaster, i);
    master.name = MasterName(i);
    master.argv = MasterArguments(
        i, {.http = port_of(options_.http_port, i), .grpc = port_of(options_.grpc_port, i)});
    RETURN_IF_ERROR(StartMember(master));
  }
  for (int i = 0; i < options_.masters; ++i) {
    Member& master = MemberAt(Role::kMaster, i);
    ASSIGN_OR_RETURN(const std::string text, PortsOf(master, shutdown));
    MasterPorts ports;
    ASSIGN_OR_RETURN(ports.http, PortFrom(text, "http"));
    ASSIGN_OR_RETURN(ports.grpc, PortFrom(text, "grpc"));
    ASSIGN_OR_RETURN(ports.admin, PortFrom(text, "admin"));
    ASSIGN_OR_RETURN(ports.link, PortFrom(text, "link"));
    ASSIGN_OR_RETURN(ports.metrics, PortFrom(text, "metrics"));
    masters_.push_back(ports);
    // A restarted master must be found again where it was.
    master.argv = MasterArguments(i, ports);
  }
  return absl::OkStatus();
}

absl::Status LocalCluster::StartWorkers(ShutdownSignal& shutdown) {
  for (int i = 0; i < options_.workers; ++i) {
    Member& worker = MemberAt(Role::kWorker, i);
    worker.name = WorkerName(i);
    ASSIGN_OR_RETURN(worker.argv, WorkerArguments(i));
    RETURN_IF_ERROR(StartMember(worker));
  }
  for (int i = 0; i < options_.workers; ++i) {
    Member& worker = MemberAt(Role::kWorker, i);
    ASSIGN_OR_RETURN(const std::string ports, PortsOf(worker, shutdown));
    ASSIGN_OR_RETURN(const uint16_t metrics, PortFrom(ports, "metrics"));
    RETURN_IF_ERROR(WaitReady(worker, metrics, shutdown));
  }
  return absl::OkStatus();
}

std::vector<std::string> LocalCluster::MasterArguments(int index, const MasterPorts& ports) const {
  const std::string name = MasterName(index);
  std::vector<std::string> argv = {master_program_,
                                   "--id",
                                   name,
                                   "--bind",
                                   "127.0.0.1",
                                   "--http-port",
                                   absl::StrCat(ports.http),
                                   "--grpc-port",
                                   absl::StrCat(ports.grpc),
                                   "--admin-port",
                                   absl::StrCat(ports.admin),
                                   "--link-port",
                                   absl::StrCat(ports.link),
                                   "--metrics-port",
                                   absl::StrCat(ports.metrics),
                                   "--model",
                                   options_.model,
                                   "--model-name",
                                   options_.model_name,
                                   "--ports-file",
                                   PortsPath(name),
                                   "--cluster-secret-file",
                                   state_.File(kSecretFile)};
  // Masters with a database in common would tell workers of each other, past whatever links are
  // made to run through.
  if (!options_.database.empty()) {
    argv.insert(argv.end(), {"--database", options_.database});
  } else if (!options_.links) {
    argv.insert(argv.end(), {"--database", absl::StrCat("sqlite:", state_.File(kDatabaseFile))});
  }
  AddLinkFlags(certificates_.master, argv);
  if (options_.open) {
    argv.push_back("--open");
  } else {
    argv.insert(argv.end(), {"--keys-file", state_.keys_file()});
  }
  argv.insert(argv.end(), options_.master_flags.begin(), options_.master_flags.end());
  return argv;
}

absl::StatusOr<std::vector<std::string>> LocalCluster::WorkerArguments(int index) const {
  std::vector<uint16_t> link_ports;
  for (const MasterPorts& master : masters_) link_ports.push_back(master.link);
  std::vector<std::string> addresses;
  if (options_.links) {
    ASSIGN_OR_RETURN(addresses, options_.links(index, link_ports));
  } else {
    for (const uint16_t port : link_ports) addresses.push_back(absl::StrCat("127.0.0.1:", port));
  }
  const std::string name = WorkerName(index);
  std::vector<std::string> argv = {worker_program_,
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
  for (const std::string& address : addresses) argv.insert(argv.end(), {"--master", address});
  AddLinkFlags(certificates_.worker, argv);
  if (!options_.backend.empty()) argv.insert(argv.end(), {"--backend", options_.backend});
  if (!options_.dummy_weights.empty()) {
    argv.insert(argv.end(), {"--dummy-weights", options_.dummy_weights});
  }
  if (!options_.dtype.empty()) argv.insert(argv.end(), {"--dtype", options_.dtype});
  int64_t kv_cache_bytes = options_.kv_cache_bytes;
  if (options_.workers > 1 && options_.device == "cpu") {
    // Each would take the whole machine.
    const auto cores = static_cast<int>(std::thread::hardware_concurrency());
    argv.insert(argv.end(), {"--threads", absl::StrCat(std::max(1, cores / options_.workers))});
    if (kv_cache_bytes == 0) kv_cache_bytes = AvailableMemoryBytes() / 4 / options_.workers;
  }
  if (kv_cache_bytes > 0) {
    argv.insert(argv.end(), {"--kv-cache-bytes", absl::StrCat(kv_cache_bytes)});
  }
  argv.insert(argv.end(), options_.worker_flags.begin(), options_.worker_flags.end());
  return argv;
}

std::string LocalCluster::MasterName(int index) const {
  return options_.masters == 1 ? "master" : absl::StrCat("master-", index);
}

std::string LocalCluster::WorkerName(int index) { return absl::StrCat("worker-", index); }

LocalCluster::Member& LocalCluster::MemberAt(Role role, int index) {
  return members_[static_cast<size_t>(role == Role::kMaster ? index : options_.masters + index)];
}

pid_t LocalCluster::Pid(Role role, int index) {
  Member& member = MemberAt(role, index);
  return member.process && !member.process->Poll() ? member.process->pid() : 0;
}

void LocalCluster::Signal(Role role, int index, int number) {
  if (Member& member = MemberAt(role, index); member.process) member.process->Signal(number);
}

void LocalCluster::ExpectEnd(Role role, int index) { MemberAt(role, index).end_wanted = true; }

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
  if (std::exchange(member.end_wanted, false)) return StartMember(member);
  if (member.process->ended_well()) {
    // Somebody asked it to leave.
    std::fprintf(stderr, "fathom: the %s left; starting a new one\n", member.name.c_str());
    member.start_next = now + RestartPolicy::kFirstPause;
    return absl::OkStatus();
  }
  ++crashes_;
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
  const auto masters = static_cast<size_t>(options_.masters);
  StopMembers(0, masters, shutdown, count_before, limit);
  StopMembers(masters, members_.size(), shutdown, count_before, limit);
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
