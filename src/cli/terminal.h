#pragma once

// The user's terminal: lines from stdin that a Ctrl-C can interrupt, model text without control
// characters, a watch that cancels a request on Ctrl-C.

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/statusor.h"
#include "common/shutdown.h"

namespace fathom::cli {

bool StdinIsTerminal();
bool StdoutIsTerminal();
bool StderrIsTerminal();

// Reads stdin by lines. One thread.
class LineReader {
 public:
  static constexpr size_t kLineBytesMax = 16 << 20;

  explicit LineReader(ShutdownSignal& shutdown) : shutdown_(shutdown) {}

  // The next line without its end; nothing at the end of the input or when shutdown is asked for.
  std::optional<std::string> Next();

 private:
  ShutdownSignal& shutdown_;
  std::string buffer_;
  bool ended_ = false;
};

// All of stdin. RESOURCE_EXHAUSTED over `max_bytes`.
absl::StatusOr<std::string> ReadAllStdin(size_t max_bytes);

// Without the control characters a terminal would act upon; newlines and tabs stay.
std::string Printable(std::string_view text);

// Calls `on_interrupt` once, on a thread of its own, when shutdown is asked for (again) during its
// life.
class InterruptWatch {
 public:
  InterruptWatch(ShutdownSignal& shutdown, std::function<void()> on_interrupt);
  ~InterruptWatch() = default;  // joins

 private:
  std::jthread thread_;
};

}  // namespace fathom::cli
