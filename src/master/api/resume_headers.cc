#include "master/api/resume_headers.h"

#include "common/status_macros.h"

namespace fathom::master {

absl::StatusOr<ResumeAsk> ReadResumeAsk(const HttpCall& call, std::string_view body) {
  const auto header = [&call](const char* name) {
    const auto found = call.headers.find(name);
    return found == call.headers.end()
               ? std::string_view()
               : std::string_view(found->value().data(), found->value().size());
  };
  ResumeAsk ask{.idempotency_key = header("Idempotency-Key"),
                .token = header("Last-Event-ID"),
                .first_try = header("X-Stainless-Retry-Count") == "0",
                .body = body};
  if (const std::string_view hold = header("X-Fathom-Resume"); !hold.empty()) {
    ASSIGN_OR_RETURN(ask.hold, ParseHold(hold));
  }
  return ask;
}

}  // namespace fathom::master
