#include "master/api/errors.h"

#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/json_text.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

std::string_view TypeOf(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable";
    case 504:
    case 408:
      return "timeout_error";
    default:
      return http_status >= 500 ? "server_error" : "invalid_request_error";
  }
}

void AppendOptional(std::string& out, const std::optional<std::string>& value) {
  if (value) {
    AppendJsonString(out, *value);
  } else {
    out += "null";
  }
}

std::string Body(int http_status, std::string_view message, const std::optional<std::string>& param,
                 const std::optional<std::string>& code) {
  std::string out = R"({"error":{"message":)";
  AppendJsonString(out, message);
  out += R"(,"type":)";
  AppendJsonString(out, TypeOf(http_status));
  out += R"(,"param":)";
  AppendOptional(out, param);
  out += R"(,"code":)";
  AppendOptional(out, code);
  out += "}}";
  return out;
}

std::optional<std::string> DefaultCode(const absl::Status& status) {
  if (absl::IsUnauthenticated(status)) return "invalid_api_key";
  if (absl::IsResourceExhausted(status)) return "rate_limit_exceeded";
  return std::nullopt;
}

}  // namespace

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
      return 422;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string OpenAiErrorBody(const absl::Status& status) {
  std::optional<std::string> code = FailureCode(status);
  if (!code) code = DefaultCode(status);
  return Body(HttpStatusOf(status), Message(status), FailureParam(status), code);
}

std::string OpenAiErrorBody(int http_status, std::string_view message) {
  return Body(http_status, message, std::nullopt, std::nullopt);
}

HttpReply ErrorReply(const absl::Status& status) {
  HttpReply reply{.status = HttpStatusOf(status), .body = OpenAiErrorBody(status)};
  if (reply.status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (const std::optional<absl::Duration> after = FailureRetryAfter(status)) {
    // Whole seconds, rounded up: "0" would invite an instant retry.
    const double seconds = std::ceil(absl::ToDoubleSeconds(*after));
    reply.headers.emplace_back("Retry-After",
                               absl::StrCat(std::max<int64_t>(1, static_cast<int64_t>(seconds))));
  }
  return reply;
}

HttpReply ErrorReply(int http_status, std::string_view message) {
  return {.status = http_status, .body = OpenAiErrorBody(http_status, message)};
}

}  // namespace fathom::master
