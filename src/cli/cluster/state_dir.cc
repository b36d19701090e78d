#include "cli/cluster/state_dir.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr size_t kFileBytesMax = 1 << 20;
constexpr size_t kKeyBytes = 32;

std::string TextOf(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
}

struct flock WholeFile(int16_t type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

absl::StatusOr<std::string> DefaultStateDir() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') {
    return absl::StrCat(state, "/fathom");
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    return absl::StrCat(home, "/.local/state/fathom");
  }
  return absl::FailedPreconditionError("neither HOME nor XDG_STATE_HOME is set; use --state-dir");
}

absl::StatusOr<StateDir> StateDir::Open(const std::string& path) {
  std::error_code error;
  const std::string absolute = std::filesystem::absolute(path, error).lexically_normal();
  std::filesystem::create_directories(std::filesystem::path(absolute).parent_path(), error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(absolute, ": ", error.message()));
  if (mkdir(absolute.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absolute);
  }
  struct stat info = {};
  if (stat(absolute.c_str(), &info) != 0) return absl::ErrnoToStatus(errno, absolute);
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(absolute, " is not a folder"));
  }
  if (info.st_uid != geteuid() || (info.st_mode & 0077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(absolute, " must be yours with mode 0700, since it holds a key"));
  }
  return StateDir(absolute);
}

absl::StatusOr<std::string> StateDir::ReadKey() const {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(File("key"), kFileBytesMax));
  const std::string key(absl::StripAsciiWhitespace(text));
  if (key.empty()) return absl::DataLossError(absl::StrCat(File("key"), " is empty; remove it"));
  return key;
}

absl::StatusOr<std::string> StateDir::EnsureKey(Random& random) const {
  absl::StatusOr<std::string> key = ReadKey();
  if (absl::IsNotFound(key.status())) {
    key = "fathom-" + RandomHex(random, kKeyBytes);
    RETURN_IF_ERROR(WriteFileAtomically(File("key"), *key + "\n", 0600));
  }
  RETURN_IF_ERROR(key.status());
  RETURN_IF_ERROR(
      WriteFileAtomically(keys_file(), absl::StrCat("local:", Sha256Hex(*key), ":admin\n"), 0600));
  return key;
}

absl::StatusOr<std::unique_ptr<StateDir::Lock>> StateDir::TryLock() const {
  const int fd = open(File("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, File("lock"));
  auto lock = std::make_unique<Lock>(fd);
  struct flock whole = WholeFile(F_WRLCK);
  if (fcntl(fd, F_OFD_SETLK, &whole) == 0) return lock;
  std::string who;
  if (const auto info = RunningCluster(); info.ok()) {
    who = absl::StrCat(" (process ", info->pid, ", ", info->http_url, ")");
  }
  return absl::FailedPreconditionError(
      absl::StrCat("a cluster already runs with the state folder ", path_, who));
}

StateDir::Lock::~Lock() { close(fd_); }

bool StateDir::IsLocked() const {
  const int fd = open(File("lock").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  // Asks without taking it, so that a look never stands in the way of a start.
  struct flock whole = WholeFile(F_RDLCK);
  const bool locked = fcntl(fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
  close(fd);
  return locked;
}

absl::Status StateDir::WriteCluster(const ClusterInfo& info) const {
  const json::object object = {{"pid", info.pid},           {"http", info.http_url},
                               {"grpc", info.grpc_address}, {"admin", info.admin_address},
                               {"model", info.model},       {"open", info.open}};
  return WriteFileAtomically(File("cluster.json"), json::serialize(object) + "\n", 0600);
}

void StateDir::RemoveCluster() const { unlink(File("cluster.json").c_str()); }

absl::StatusOr<ClusterInfo> StateDir::RunningCluster() const {
  const absl::StatusOr<std::string> text = ReadFile(File("cluster.json"), kFileBytesMax);
  if (!text.ok() || !IsLocked()) {
    return absl::UnavailableError(
        absl::StrCat("no cluster runs with the state folder ", path_, "; start one: fathom up"));
  }
  boost::system::error_code error;
  const json::value value = json::parse(*text, error);
  if (error || !value.is_object()) {
    return absl::DataLossError(absl::StrCat(File("cluster.json"), " is damaged"));
  }
  const json::object& object = value.get_object();
  ClusterInfo info;
  info.http_url = TextOf(object, "http");
  info.grpc_address = TextOf(object, "grpc");
  info.admin_address = TextOf(object, "admin");
  info.model = TextOf(object, "model");
  if (const json::value* pid = object.if_contains("pid"); pid != nullptr && pid->is_int64()) {
    info.pid = static_cast<pid_t>(pid->get_int64());
  }
  if (const json::value* open = object.if_contains("open"); open != nullptr && open->is_bool()) {
    info.open = open->get_bool();
  }
  return info;
}

}  // namespace fathom::cli
