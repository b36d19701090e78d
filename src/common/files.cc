#include "common/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace fathom {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status Failed(const char* verb, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", verb, " ", path));
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return Failed("open", path);
  std::string text;
  char chunk[64 * 1024];
  while (true) {
    const ssize_t got = read(file.get(), chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Failed("read", path);
    if (got == 0) return text;
    if (text.size() + static_cast<size_t>(got) > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, " is larger than the ", max_bytes, " bytes allowed"));
    }
    text.append(chunk, static_cast<size_t>(got));
  }
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view text, mode_t mode) {
  const std::string temporary = absl::StrCat(path, ".tmp.", getpid());
  {
    const FileDescriptor file(
        open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
    if (file.get() < 0) return Failed("create", temporary);
    // A file left by an earlier try keeps its old mode, and umask may have taken bits away.
    if (fchmod(file.get(), mode) != 0) return Failed("set the mode of", temporary);
    for (size_t done = 0; done < text.size();) {
      const ssize_t put = write(file.get(), text.data() + done, text.size() - done);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return Failed("write", temporary);
      done += static_cast<size_t>(put);
    }
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    absl::Status status = Failed("replace", path);
    unlink(temporary.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace fathom
