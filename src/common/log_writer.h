#pragma once

// Writes lines to a descriptor on a thread of its own, so that whoever logs never waits for whoever
// reads the log. What waits to be written is bounded, in bytes and in lines: a line that does not
// fit is dropped and counted. Once half of the room is there again, a line says in the place of
// those dropped how many they were; until then all that comes is dropped as well, so that lines
// that go on are those without a gap.
//
// A write may never return (the reader stands still), so nothing waits for the thread without a
// limit: it is not joined, and ends with the process. Thread safety: everything may be called from
// any thread.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace fathom {

struct LogWriterOptions {
  int fd = 2;  // stays the caller's
  size_t max_bytes = size_t{1} << 20;
  size_t max_lines = 8192;
  // The line that says so, without its end.
  std::function<std::string(int64_t dropped)> dropped_line;
  // Once for each line that is not written: dropped, or refused by the descriptor (a disk that is
  // full, a reader that is gone). Must not log.
  std::function<void()> on_lost;
};

class LogWriter {
 public:
  explicit LogWriter(LogWriterOptions options);
  // What waits is lost: Flush first.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Never waits. The line's end is added.
  void Write(std::string line);

  // Waits until what was handed over before is written; false when it is not within `limit`.
  bool Flush(absl::Duration limit);

 private:
  struct State;
  static void Run(const std::shared_ptr<State>& state);

  const std::shared_ptr<State> state_;  // the thread's as well
};

}  // namespace fathom
