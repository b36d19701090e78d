#include "common/logging.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/strings.h"

namespace fathom {
namespace {

struct Logger {
  LogOptions options;
  std::shared_ptr<spdlog::logger> sink;
};

// The process's logger. It is never destroyed, so that threads may log to the very end.
Logger& TheLogger() {
  static Logger* logger = [] {
    auto* made = new Logger;
    made->options.json = false;
    made->sink = std::make_shared<spdlog::logger>(
        "fathom", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->sink->set_pattern("%v");
    made->sink->set_level(spdlog::level::info);
    made->sink->flush_on(spdlog::level::trace);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return spdlog::level::trace;
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
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

std::string Quoted(std::string_view text) { return boost::json::serialize(text); }

struct ValueText {
  bool json;
  std::string operator()(const std::string& v) const { return json ? Quoted(v) : v; }
  std::string operator()(int64_t v) const { return absl::StrCat(v); }
  std::string operator()(double v) const { return absl::StrFormat("%.6g", v); }
  std::string operator()(bool v) const { return v ? "true" : "false"; }
};

}  // namespace

absl::Status InitLogging(const LogOptions& options) {
  const spdlog::level::level_enum level = spdlog::level::from_str(options.level);
  if (level == spdlog::level::off && options.level != "off") {
    return absl::InvalidArgumentError(absl::StrCat("unknown log level '", options.level,
                                                   "'; known: trace, debug, info, warn, error"));
  }
  TheLogger().options = options;
  TheLogger().sink->set_level(level);
  return absl::OkStatus();
}

bool LogEnabled(LogLevel level) { return TheLogger().sink->should_log(ToSpdlog(level)); }

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
  Logger& target = TheLogger();
  if (!target.sink->should_log(ToSpdlog(level))) return;
  const std::string line = FormatLogLine(target.options, level, logger, message, fields,
                                         absl::ToUnixMicros(absl::Now()));
  target.sink->log(ToSpdlog(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace fathom
