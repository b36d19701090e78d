#include "common/log_writer.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

namespace fathom {
namespace {

// Others may share the descriptor and have made it one that does not wait.
bool WaitForRoom(int fd) {
  pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
  return poll(&room, 1, -1) > 0 || errno == EINTR;
}

bool WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      if (!WaitForRoom(fd)) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace

struct LogWriter::State {
  explicit State(LogWriterOptions given) : options(std::move(given)) {}

  // `mutex` is held, for all of these.
  bool HasRoom(size_t bytes, size_t max_bytes, size_t max_lines) const {
    return lines.size() < max_lines && waiting_bytes + bytes <= max_bytes;
  }
  void Push(std::string line) {
    waiting_bytes += line.size();
    ++pushed;
    lines.push_back(std::move(line));
  }
  void SayDropped() {
    const bool room = lines.empty() || HasRoom(0, options.max_bytes / 2, options.max_lines / 2);
    if (dropped == 0 || !room) return;
    Push(options.dropped_line(std::exchange(dropped, 0)) + "\n");
  }

  const LogWriterOptions options;
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable progress;
  // State below is protected by mutex.
  std::deque<std::string> lines;
  size_t waiting_bytes = 0;  // of `lines` and of the one being written
  int64_t dropped = 0;       // since it was last said
  uint64_t pushed = 0;
  uint64_t done = 0;  // of those pushed
  bool stopping = false;
};

LogWriter::LogWriter(LogWriterOptions options)
    : state_(std::make_shared<State>(std::move(options))) {
  std::thread([state = state_] { Run(state); }).detach();
}

LogWriter::~LogWriter() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_one();
}

void LogWriter::Write(std::string line) {
  line.push_back('\n');
  State& state = *state_;
  {
    const std::lock_guard lock(state.mutex);
    if (state.dropped == 0 &&
        state.HasRoom(line.size(), state.options.max_bytes, state.options.max_lines)) {
      state.Push(std::move(line));
    } else {
      ++state.dropped;
      state.options.on_lost();
    }
  }
  state.wake.notify_one();
}

bool LogWriter::Flush(absl::Duration limit) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  // The line that says how many were dropped is still to come.
  const uint64_t target = state.pushed + (state.dropped > 0 ? 1 : 0);
  return state.progress.wait_for(lock, absl::ToChronoNanoseconds(limit),
                                 [&] { return state.done >= target; });
}

void LogWriter::Run(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  while (true) {
    state->SayDropped();
    state->wake.wait(
        lock, [&] { return state->stopping || !state->lines.empty() || state->dropped > 0; });
    if (state->stopping) return;
    if (state->lines.empty()) continue;
    const std::string line = std::move(state->lines.front());
    state->lines.pop_front();
    lock.unlock();
    const bool written = WriteAll(state->options.fd, line);
    lock.lock();
    if (!written) state->options.on_lost();
    state->waiting_bytes -= line.size();
    ++state->done;
    state->progress.notify_all();
  }
}

}  // namespace fathom
