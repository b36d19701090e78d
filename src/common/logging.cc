#include "common/logging.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/log_writer.h"
#include "common/metrics.h"
#include "common/strings.h"

namespace fathom {
namespace {

// What a process that ends spends on a reader that may stand still.
constexpr absl::Duration kFlushAtExit = absl::Seconds(1);

constexpr std::array kLevels{LogLevel::kTrace, LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn,
                             LogLevel::kError};

struct Logger {
  LogOptions options{.json = false};
  std::atomic<LogLevel> level = LogLevel::kInfo;
  std::atomic<LogWriter*> writer = nullptr;  // null: lines are written where they are said
};

// The process's logger. It is never destroyed, so that threads may log to the very end.
Logger& TheLogger() {
  static auto* logger = new Logger;
  return *logger;
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return "trace";
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
      return "error";
  }
  return "info";
}

std::optional<LogLevel> LevelOf(const std::string& name) {
  for (const LogLevel level : kLevels) {
    if (name == LevelName(level)) return level;
  }
  return std::nullopt;
}

std::string Quoted(std::string_view text) { return boost::json::serialize(text); }

struct ValueText {
  bool json;
  std::string operator()(const std::string& v) const { return json ? Quoted(v) : v; }
  std::string operator()(int64_t v) const { return absl::StrCat(v); }
  std::string operator()(double v) const { return absl::StrFormat("%.6g", v); }
  std::string operator()(bool v) const { return v ? "true" : "false"; }
};

std::string LineNow(const LogOptions& options, LogLevel level, std::string_view logger,
                    std::string_view message, std::initializer_list<LogField> fields) {
  return FormatLogLine(options, level, logger, message, fields, absl::ToUnixMicros(absl::Now()));
}

void Emit(std::string line) {
  if (LogWriter* const writer = TheLogger().writer) return writer->Write(std::move(line));
  line.push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

// Never destroyed, like the logger.
LogWriter* StartWriter() {
  prometheus::Counter& lost = AddCounter(
      "fathom_log_lines_dropped_total",
      "Log lines that are not in the log, as whoever reads it or the disk did not take them");
  auto* const writer =
      new LogWriter({.dropped_line =
                         [](int64_t dropped) {
                           return LineNow(TheLogger().options, LogLevel::kWarn, "log",
                                          "log lines were dropped", {{"labels.lines", dropped}});
                         },
                     .on_lost = [&lost] { lost.Increment(); }});
  std::atexit([] { FlushLogs(kFlushAtExit); });
  return writer;
}

}  // namespace

absl::Status InitLogging(const LogOptions& options) {
  const std::optional<LogLevel> level = LevelOf(options.level);
  if (!level) {
    return absl::InvalidArgumentError(absl::StrCat("unknown log level '", options.level,
                                                   "'; known: trace, debug, info, warn, error"));
  }
  Logger& target = TheLogger();
  target.options = options;
  target.level = *level;
  if (target.writer == nullptr) target.writer = StartWriter();
  return absl::OkStatus();
}

void FlushLogs(absl::Duration limit) {
  if (LogWriter* const writer = TheLogger().writer) writer->Flush(limit);
}

void LogCannotStart(const LogOptions& options, std::string_view logger, const absl::Status& why) {
  if (isatty(STDERR_FILENO) == 1) {
    FlushLogs(kFlushAtExit);
    std::fprintf(stderr, "%s: %s\n", options.service.c_str(), std::string(Message(why)).c_str());
    return;
  }
  Emit(LineNow(options, LogLevel::kError, logger, "cannot start",
               {{"error.message", std::string(Message(why))}}));
}

bool LogEnabled(LogLevel level) { return level >= TheLogger().level.load(); }

std::string FormatLogLine(const LogOptions& options, LogLevel level, std::string_view logger,
                          std::string_view message, std::initializer_list<LogField> fields,
                          int64_t unix_micros) {
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ",
                                            absl::FromUnixMicros(unix_micros), absl::UTCTimeZone());
  const ValueText text{options.json};
  std::string line;
  if (options.json) {
    line = absl::StrCat("{\"@timestamp\":\"", time, "\",\"log.level\":\"", LevelName(level),
                        "\",\"message\":", Quoted(message),
                        ",\"ecs.version\":\"8.11.0\",\"service.name\":", Quoted(options.service));
    if (!options.node.empty()) {
      absl::StrAppend(&line, ",\"service.node.name\":", Quoted(options.node));
    }
    absl::StrAppend(&line, ",\"log.logger\":", Quoted(logger));
    for (const LogField& field : fields) {
      absl::StrAppend(&line, ",", Quoted(field.key), ":", std::visit(text, field.value));
    }
    absl::StrAppend(&line, "}");
    return line;
  }
  line = absl::StrCat(time, " ", LevelName(level), " ", ToAbsl(logger), ": ", ToAbsl(message));
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", ToAbsl(field.key), "=", std::visit(text, field.value));
  }
  return line;
}

void Log(LogLevel level, std::string_view logger, std::string_view message,
         std::initializer_list<LogField> fields) {
  if (LogEnabled(level)) Emit(LineNow(TheLogger().options, level, logger, message, fields));
}

}  // namespace fathom
