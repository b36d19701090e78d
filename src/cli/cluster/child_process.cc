#include "cli/cluster/child_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fathom::cli {
namespace {

// Between fork and exec: async-signal-safe calls only. Writes errno to `error_fd` when it fails.
[[noreturn]] void RunInChild(char* const* argv, int log_fd, int error_fd, pid_t parent,
                             const RunAs* run_as) {
  const auto fail = [error_fd] {
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(error_fd, &error, sizeof(error));
    _exit(127);
  };
  // Before the tie to our parent, which the kernel drops with a change of user. No glibc: its calls
  // speak for all threads. Our folder may be closed to that user.
  if (run_as != nullptr &&
      (syscall(SYS_setgroups, 0, nullptr) != 0 || syscall(SYS_setgid, run_as->gid) != 0 ||
       syscall(SYS_setuid, run_as->uid) != 0 || chdir("/") != 0)) {
    fail();
  }
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail();
  if (getppid() != parent) _exit(127);  // it died before the tie held
  setpgid(0, 0);
  // Our own mask blocks SIGINT and SIGTERM; a mask and ignored signals survive exec.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
      dup2(log_fd, STDERR_FILENO) < 0) {
    fail();
  }
  // A connection of ours that a child also held would not end when we close it.
  if (close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC) != 0) fail();
  execv(argv[0], argv);
  fail();
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& argv,
                                                 const std::string& log_path,
                                                 const std::optional<RunAs>& run_as) {
  std::vector<char*> raw;
  raw.reserve(argv.size() + 1);
  for (const std::string& argument : argv) raw.push_back(const_cast<char*>(argument.c_str()));
  raw.push_back(nullptr);

  const int log_fd = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log_fd < 0) return absl::ErrnoToStatus(errno, log_path);
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
    const int error = errno;
    close(log_fd);
    return absl::ErrnoToStatus(error, "pipe");
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) RunInChild(raw.data(), log_fd, pipe_fds[1], parent, run_as ? &*run_as : nullptr);
  const int fork_error = errno;
  close(log_fd);
  close(pipe_fds[1]);
  if (pid < 0) {
    close(pipe_fds[0]);
    return absl::ErrnoToStatus(fork_error, "fork");
  }
  ChildProcess child(pid);
  // The pipe closes with exec, or brings the reason why there was none.
  int error = 0;
  ssize_t got = 0;
  do {
    got = read(pipe_fds[0], &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  close(pipe_fds[0]);
  if (got == sizeof(error)) return absl::ErrnoToStatus(error, absl::StrCat("starting ", argv[0]));
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      end_(std::move(other.end_)),
      ended_well_(other.ended_well_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    Kill();
    pid_ = std::exchange(other.pid_, -1);
    end_ = std::move(other.end_);
    ended_well_ = other.ended_well_;
  }
  return *this;
}

ChildProcess::~ChildProcess() { Kill(); }

void ChildProcess::Kill() {
  if (pid_ < 0 || end_) return;
  kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

const std::optional<std::string>& ChildProcess::Poll() {
  int status = 0;
  if (pid_ >= 0 && !end_ && waitpid(pid_, &status, WNOHANG) == pid_) {
    if (WIFSIGNALED(status)) {
      end_ = absl::StrCat("signal ", WTERMSIG(status));
    } else {
      ended_well_ = WEXITSTATUS(status) == 0;
      end_ = absl::StrCat("exit code ", WEXITSTATUS(status));
    }
  }
  return end_;
}

void ChildProcess::Signal(int number) {
  if (pid_ >= 0 && !Poll()) kill(pid_, number);
}

}  // namespace fathom::cli
