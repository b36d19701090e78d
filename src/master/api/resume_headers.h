#pragma once

// What a client says of coming back, in the headers of an HTTP request. Pure.

#include <string_view>

#include "absl/status/statusor.h"
#include "master/api/http_exchange.h"
#include "master/api/resume.h"

namespace fathom::master {

// `body`: what must be the same when it comes back. `call` and `body` outlive the ask.
absl::StatusOr<ResumeAsk> ReadResumeAsk(const HttpCall& call, std::string_view body);

}  // namespace fathom::master
