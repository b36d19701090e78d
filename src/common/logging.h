#pragma once

// Structured logs: one JSON object a line on stderr with ECS names (for ELK), or plain text for
// people. Prompts, outputs, keys and tokens never belong in a log.
//
// From InitLogging on a thread of its own writes them (common/log_writer.h): no call here waits for
// whoever reads the log, and what that reader cannot take is dropped and counted. At the end of the
// process, by return or exit, what waits is written, for a second at most.
//
// Thread safety: everything may be called from any thread; InitLogging once, early, and not before
// a fork without exec.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace fathom {

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarn, kError };

struct LogOptions {
  std::string level = "info";  // trace, debug, info, warn, error
  bool json = true;
  std::string service = "fathom";  // service.name
  std::string node;                // service.node.name
};

// Values are numbers, text or truth; keys are ECS names or `labels.*`.
struct LogField {
  std::string_view key;
  std::variant<std::string, int64_t, double, bool> value;
};

// Until it is called, logs are text at level info and are written where they are said.
absl::Status InitLogging(const LogOptions& options);

// For an end that is neither return nor exit: waits until what was logged is written, for `limit`
// at most.
void FlushLogs(absl::Duration limit);
// What a process that is broken may spend on it.
inline constexpr absl::Duration kFlushInCrash = absl::Milliseconds(100);

// Why a process ends that has just begun, the configuration perhaps not read yet: people at a
// terminal get a plain sentence, everybody else the line "cannot start".
void LogCannotStart(const LogOptions& options, std::string_view logger, const absl::Status& why);

bool LogEnabled(LogLevel level);
void Log(LogLevel level, std::string_view logger, std::string_view message,
         std::initializer_list<LogField> fields = {});

inline void LogDebug(std::string_view logger, std::string_view message,
                     std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kDebug, logger, message, fields);
}
inline void LogInfo(std::string_view logger, std::string_view message,
                    std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kInfo, logger, message, fields);
}
inline void LogWarn(std::string_view logger, std::string_view message,
                    std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kWarn, logger, message, fields);
}
inline void LogError(std::string_view logger, std::string_view message,
                     std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kError, logger, message, fields);
}

// The line without its end, as Log writes it; for tests and for other sinks.
std::string FormatLogLine(const LogOptions& options, LogLevel level, std::string_view logger,
                          std::string_view message, std::initializer_list<LogField> fields,
                          int64_t unix_micros);

}  // namespace fathom
