#pragma once

// What a failure tells a client beyond its status code: which field was wrong, a machine-readable
// code, when to come back. Carried as payloads of absl::Status, so that every layer may add them
// and each dialect shows them in its own form.

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace fathom::master {

// INVALID_ARGUMENT that names the field of the request.
absl::Status BadField(std::string_view param, std::string_view message);

absl::Status WithParam(absl::Status status, std::string_view param);
absl::Status WithCode(absl::Status status, std::string_view code);
absl::Status WithRetryAfter(absl::Status status, absl::Duration after);

std::optional<std::string> FailureParam(const absl::Status& status);
std::optional<std::string> FailureCode(const absl::Status& status);
std::optional<absl::Duration> FailureRetryAfter(const absl::Status& status);

}  // namespace fathom::master
