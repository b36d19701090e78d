#pragma once

// Structured logs: one JSON object a line on stderr with ECS names (for ELK), or plain text for
// people. Prompts, outputs, keys and tokens never belong in a log. Thread safety: everything may be
// called from any thread; InitLogging once, early.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"

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

// Until it is called, logs are text at level info.
absl::Status InitLogging(const LogOptions& options);

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
