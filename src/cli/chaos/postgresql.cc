#include "cli/chaos/postgresql.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kVersions[] = "/usr/lib/postgresql";
constexpr char kUserForRoot[] = "postgres";
constexpr char kRole[] = "fathom";
constexpr absl::Duration kPoll = absl::Milliseconds(5);
constexpr absl::Duration kStartLimit = absl::Seconds(60);
constexpr absl::Duration kEndLimit = absl::Seconds(5);
constexpr size_t kLogTailBytes = 1000;
constexpr size_t kLogBytesMax = size_t{64} << 20;
constexpr size_t kSmallFileBytes = 64 << 10;

bool HasPrograms(const fs::path& folder) {
  return access((folder / "postgres").c_str(), X_OK) == 0 &&
         access((folder / "initdb").c_str(), X_OK) == 0;
}

// 9.6 is older than 15.
double VersionOf(const fs::path& folder) {
  double version = 0;
  return absl::SimpleAtod(folder.filename().string(), &version) ? version : 0;
}

// Waits for the end of a pipe whose other end is ours; when we are gone without a word, so are
// these. After a fork beside other threads: async-signal-safe calls only.
[[noreturn]] void Guard(int fd, const std::vector<pid_t>& pids) {
  setpgid(0, 0);
  dup2(fd, STDIN_FILENO);
  close_range(STDIN_FILENO + 1, ~0U, 0);
  char byte = 0;
  ssize_t got = 0;
  do {
    got = read(STDIN_FILENO, &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got != 1) {
    for (const pid_t pid : pids) kill(pid, SIGKILL);
  }
  _exit(0);
}

}  // namespace

absl::StatusOr<std::string> FindPostgresql(std::string_view path, const std::string& versions) {
  for (const absl::string_view folder : absl::StrSplit(ToAbsl(path), ':', absl::SkipEmpty())) {
    if (HasPrograms(std::string(folder))) return std::string(folder);
  }
  fs::path newest;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(versions, error)) {
    if (HasPrograms(entry.path() / "bin") &&
        (newest.empty() || VersionOf(entry.path()) > VersionOf(newest))) {
      newest = entry.path();
    }
  }
  if (!newest.empty()) return (newest / "bin").string();
  return absl::NotFoundError(
      absl::StrCat("faults of the database need PostgreSQL: `postgres` and `initdb` are neither on "
                   "PATH nor below ",
                   versions));
}

bool SaysReady(std::string_view postmaster_pid, pid_t pid) {
  constexpr size_t kStatusLine = 7;
  const std::vector<absl::string_view> lines = absl::StrSplit(ToAbsl(postmaster_pid), '\n');
  int64_t told = 0;
  return lines.size() > kStatusLine && absl::SimpleAtoi(lines[0], &told) && told == pid &&
         absl::StripAsciiWhitespace(lines[kStatusLine]) == "ready";
}

absl::StatusOr<std::unique_ptr<Postgresql>> Postgresql::Start(const std::string& folder,
                                                              ShutdownSignal& shutdown) {
  const char* path = std::getenv("PATH");
  ASSIGN_OR_RETURN(std::string programs,
                   FindPostgresql(path == nullptr ? std::string_view() : path, kVersions));
  std::unique_ptr<Postgresql> database(new Postgresql(std::move(programs), folder));
  RETURN_IF_ERROR(database->MakeFolder());
  RETURN_IF_ERROR(database->MakeDatabase(shutdown));
  RETURN_IF_ERROR(database->StartAgain());
  const absl::Time give_up = absl::Now() + kStartLimit;
  while (absl::Now() < give_up) {
    ASSIGN_OR_RETURN(const bool ready, database->IsReady());
    if (ready) return database;
    if (shutdown.WaitFor(kPoll)) return absl::CancelledError("interrupted");
  }
  return absl::DeadlineExceededError(
      absl::StrCat("PostgreSQL did not come up; its log is ", database->LogPath()));
}

Postgresql::~Postgresql() {
  Continue();
  if (!server_) return;
  server_->Signal(SIGQUIT);  // at once, and its children first
  const absl::Time give_up = absl::Now() + kEndLimit;
  while (!server_->Poll() && absl::Now() < give_up) absl::SleepFor(kPoll);
  if (!server_->Poll()) Kill();
}

std::string Postgresql::url() const {
  return absl::StrCat("postgresql://", kRole, "@/postgres?host=", DataPath());
}

absl::Status Postgresql::MakeFolder() {
  std::error_code error;
  fs::create_directories(folder_ + "/logs", error);
  if (mkdir(DataPath().c_str(), 0700) != 0) return absl::ErrnoToStatus(errno, DataPath());
  if (geteuid() != 0) return absl::OkStatus();
  const passwd* user = getpwnam(kUserForRoot);
  if (user == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("PostgreSQL does not run as root, and there is no user \"", kUserForRoot,
                     "\" to run it as"));
  }
  run_as_ = {.uid = user->pw_uid, .gid = user->pw_gid};
  if (chown(DataPath().c_str(), user->pw_uid, user->pw_gid) != 0) {
    return absl::ErrnoToStatus(errno, DataPath());
  }
  // It may pass, and see nothing: what lies in the folder is ours alone.
  if (chmod(folder_.c_str(), 0711) != 0) return absl::ErrnoToStatus(errno, folder_);
  for (fs::path above = fs::path(folder_).parent_path(); above != above.root_path();
       above = above.parent_path()) {
    struct stat status {};
    const bool closed = stat(above.c_str(), &status) == 0 && (status.st_mode & S_IXOTH) == 0;
    if (closed && status.st_uid != user->pw_uid) {
      return absl::FailedPreconditionError(
          absl::StrCat("PostgreSQL runs as the user \"", kUserForRoot, "\", to whom ",
                       above.string(), " is closed: set TMPDIR to a folder that is open"));
    }
  }
  return absl::OkStatus();
}

absl::Status Postgresql::MakeDatabase(ShutdownSignal& shutdown) {
  const std::vector<std::string> argv = {programs_ + "/initdb",
                                         "--pgdata",
                                         DataPath(),
                                         "--username",
                                         kRole,
                                         "--auth",
                                         "trust",  // the socket's folder is closed to others
                                         "--no-sync",
                                         "--encoding",
                                         "UTF8",
                                         "--locale",
                                         "C"};
  ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::Start(argv, LogPath(), run_as_));
  while (!process.Poll()) {
    if (shutdown.WaitFor(kPoll)) return absl::CancelledError("interrupted");
  }
  return process.ended_well() ? absl::OkStatus() : EndedError("initdb", *process.Poll());
}

absl::Status Postgresql::EndedError(const std::string& what, const std::string& end) const {
  std::string log = ReadFile(LogPath(), kLogBytesMax).value_or("");
  if (log.size() > kLogTailBytes) log.erase(0, log.size() - kLogTailBytes);
  return absl::InternalError(absl::StrCat(what, " ended (", end, "); its last words:\n", log));
}

absl::Status Postgresql::StartAgain() {
  const auto set = [](const char* name, const std::string& value) {
    return absl::StrCat("--", name, "=", value);
  };
  // What the operating system keeps need not survive it here, and nothing is left in /dev/shm.
  const std::vector<std::string> argv = {programs_ + "/postgres",
                                         "-D",
                                         DataPath(),
                                         set("listen_addresses", ""),
                                         set("unix_socket_directories", DataPath()),
                                         set("fsync", "off"),
                                         set("shared_buffers", "16MB"),
                                         set("dynamic_shared_memory_type", "mmap")};
  server_.reset();
  ASSIGN_OR_RETURN(server_, ChildProcess::Start(argv, LogPath(), run_as_));
  return absl::OkStatus();
}

absl::StatusOr<bool> Postgresql::IsReady() {
  if (!server_) return false;
  if (const auto& end = server_->Poll()) return EndedError("PostgreSQL", *end);
  const auto told = ReadFile(DataPath() + "/postmaster.pid", kSmallFileBytes);
  return told.ok() && SaysReady(*told, server_->pid());
}

std::vector<pid_t> Postgresql::StopAndListProcesses() {
  if (!server_ || server_->Poll()) return {};
  const pid_t pid = server_->pid();
  server_->Signal(SIGSTOP);
  std::vector<pid_t> pids;
  const std::string children =
      ReadFile(absl::StrCat("/proc/", pid, "/task/", pid, "/children"), kSmallFileBytes)
          .value_or("");
  for (const absl::string_view child :
       absl::StrSplit(ToAbsl(children), ' ', absl::SkipWhitespace())) {
    int32_t number = 0;
    if (absl::SimpleAtoi(child, &number) && number > 1) pids.push_back(number);
  }
  pids.push_back(pid);
  return pids;
}

void Postgresql::Kill() {
  for (const pid_t pid : StopAndListProcesses()) kill(pid, SIGKILL);
  server_.reset();
}

absl::Status Postgresql::Stop() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  stopped_ = StopAndListProcesses();
  guard_ = fork();
  if (guard_ == 0) Guard(fds[0], stopped_);
  const int error = errno;
  close(fds[0]);
  guard_fd_ = fds[1];
  if (guard_ < 0) {
    Continue();
    return absl::ErrnoToStatus(error, "fork");
  }
  for (const pid_t pid : stopped_) kill(pid, SIGSTOP);
  return absl::OkStatus();
}

void Postgresql::Continue() {
  for (const pid_t pid : std::exchange(stopped_, {})) kill(pid, SIGCONT);
  if (const int fd = std::exchange(guard_fd_, -1); fd >= 0) {
    [[maybe_unused]] const ssize_t written = write(fd, "x", 1);
    close(fd);
  }
  if (const pid_t guard = std::exchange(guard_, 0); guard > 0) {
    while (waitpid(guard, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

}  // namespace fathom::cli
