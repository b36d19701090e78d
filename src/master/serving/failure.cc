#include "master/serving/failure.h"

#include <cstdint>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

constexpr char kParam[] = "fathom/param";
constexpr char kCode[] = "fathom/code";
constexpr char kRetryAfter[] = "fathom/retry-after-ms";

std::optional<std::string> Payload(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  if (!payload) return std::nullopt;
  return std::string(*payload);
}

absl::Status WithPayload(absl::Status status, const char* url, std::string_view value) {
  status.SetPayload(url, absl::Cord(ToAbsl(value)));
  return status;
}

}  // namespace

absl::Status BadField(std::string_view param, std::string_view message) {
  return WithParam(absl::InvalidArgumentError(ToAbsl(message)), param);
}

absl::Status WithParam(absl::Status status, std::string_view param) {
  return WithPayload(std::move(status), kParam, param);
}

absl::Status WithCode(absl::Status status, std::string_view code) {
  return WithPayload(std::move(status), kCode, code);
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration after) {
  return WithPayload(std::move(status), kRetryAfter,
                     absl::StrCat(absl::ToInt64Milliseconds(after)));
}

std::optional<std::string> FailureParam(const absl::Status& status) {
  return Payload(status, kParam);
}

std::optional<std::string> FailureCode(const absl::Status& status) {
  return Payload(status, kCode);
}

std::optional<absl::Duration> FailureRetryAfter(const absl::Status& status) {
  const std::optional<std::string> text = Payload(status, kRetryAfter);
  int64_t milliseconds = 0;
  if (!text || !absl::SimpleAtoi(*text, &milliseconds)) return std::nullopt;
  return absl::Milliseconds(milliseconds);
}

}  // namespace fathom::master
