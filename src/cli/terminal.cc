#include "cli/terminal.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace fathom::cli {
namespace {

// How late a Ctrl-C may be noticed.
constexpr int kPollMs = 20;

}  // namespace

bool StdinIsTerminal() { return isatty(STDIN_FILENO) == 1; }
bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) == 1; }
bool StderrIsTerminal() { return isatty(STDERR_FILENO) == 1; }

std::optional<std::string> LineReader::Next() {
  const int count_before = shutdown_.count();
  while (true) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (ended_ || buffer_.size() > kLineBytesMax) {
      if (buffer_.empty()) return std::nullopt;
      return std::exchange(buffer_, "");
    }
    if (shutdown_.count() != count_before) return std::nullopt;
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (poll(&input, 1, kPollMs) <= 0) continue;
    char piece[4096];
    const ssize_t got = read(STDIN_FILENO, piece, sizeof(piece));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) {
      ended_ = true;
    } else {
      buffer_.append(piece, static_cast<size_t>(got));
    }
  }
}

absl::StatusOr<std::string> ReadAllStdin(size_t max_bytes) {
  std::string text;
  char piece[16384];
  while (true) {
    const ssize_t got = read(STDIN_FILENO, piece, sizeof(piece));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, "stdin");
    if (got == 0) return text;
    text.append(piece, static_cast<size_t>(got));
    if (text.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("stdin has more than ", max_bytes, " bytes"));
    }
  }
}

std::string Printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte >= 0x20 && byte != 0x7f) || c == '\n' || c == '\t') out += c;
  }
  return out;
}

InterruptWatch::InterruptWatch(ShutdownSignal& shutdown, std::function<void()> on_interrupt)
    : thread_([&shutdown, count_before = shutdown.count(),
               on_interrupt = std::move(on_interrupt)](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
          if (shutdown.count() != count_before) {
            on_interrupt();
            return;
          }
          absl::SleepFor(absl::Milliseconds(kPollMs));
        }
      }) {}

}  // namespace fathom::cli
