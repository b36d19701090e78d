#pragma once

// Failures in the OpenAI dialect: HTTP status and {"error":{message,type,param,code}}.

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "master/api/http_exchange.h"

namespace fathom::master {

int HttpStatusOf(const absl::Status& status);

// {"error":{...}}
std::string OpenAiErrorBody(const absl::Status& status);
// For failures that HTTP itself names (404 for a path, 405, 413 ...).
std::string OpenAiErrorBody(int http_status, std::string_view message);

// Whole, with Retry-After and WWW-Authenticate where they belong.
HttpReply ErrorReply(const absl::Status& status);
HttpReply ErrorReply(int http_status, std::string_view message);

}  // namespace fathom::master
