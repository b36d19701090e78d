#pragma once

// Chats over OpenAI's HTTP dialect: whole or streamed answers, errors as Status. As thread-safe as
// the HttpClient it is given.

#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/http_client/http_client.h"
#include "common/clock.h"

namespace fathom::cli {

struct ChatAnswer {
  std::string text;
  std::string finish_reason;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  absl::Duration to_first_token;  // zero when nothing came
  absl::Duration total;

  // Speed of decoding: tokens after the first a second. 0 when it cannot be told.
  double tokens_per_second() const;
};

// What the server answered instead of 200, as its error body says it: INVALID_ARGUMENT,
// UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND, RESOURCE_EXHAUSTED (429), UNAVAILABLE (503) or
// INTERNAL.
absl::Status ErrorOf(const HttpResponse& response);

// `request` as for /v1/chat/completions; `stream` is added here. `on_text` gets the text as it
// comes. A stream that breaks is taken up again behind its last event, for some seconds; an error
// in mid-stream, or an end without [DONE] that cannot be taken up, is an error.
absl::StatusOr<ChatAnswer> StreamChat(HttpClient& client, boost::json::object request,
                                      const std::function<void(std::string_view)>& on_text,
                                      const Clock& clock);

// The same in one piece. RESOURCE_EXHAUSTED is retried as the server's Retry-After says, and a
// broken connection under the request's idempotency key, a bounded number of times.
absl::StatusOr<ChatAnswer> CompleteChat(HttpClient& client, const boost::json::object& request,
                                        const Clock& clock);

// The first model the server lists.
absl::StatusOr<std::string> FirstModel(HttpClient& client);

}  // namespace fathom::cli
