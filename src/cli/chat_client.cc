#include "cli/chat_client.h"

#include <algorithm>
#include <boost/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/http_client/sse_parser.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr int kRetriesMax = 5;
// About ten seconds in all: as long as workers keep what a master that is gone had given them.
constexpr int kResumesMax = 8;
constexpr size_t kNameBytes = 16;

absl::Duration PauseAfter(int attempt) {
  return std::min(absl::Milliseconds(100) * (1 << std::min(attempt, 10)), absl::Seconds(2));
}

const json::value* Find(const json::value& value, std::string_view name) {
  return value.is_object() ? value.get_object().if_contains(name) : nullptr;
}

std::string TextAt(const json::value& value, std::string_view name) {
  const json::value* found = Find(value, name);
  return found != nullptr && found->is_string() ? std::string(found->get_string()) : "";
}

int64_t NumberAt(const json::value& value, std::string_view name) {
  const json::value* found = Find(value, name);
  return found != nullptr && found->is_int64() ? found->get_int64() : 0;
}

absl::StatusOr<json::value> Parse(std::string_view text) {
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error) {
    return absl::InternalError(
        absl::StrCat("the server sent no JSON: ", ToAbsl(text.substr(0, 200))));
  }
  return value;
}

// choices[0], or nothing.
const json::value* FirstChoice(const json::value& body) {
  const json::value* choices = Find(body, "choices");
  if (choices == nullptr || !choices->is_array() || choices->get_array().empty()) return nullptr;
  return &choices->get_array().front();
}

void ReadUsage(const json::value& body, ChatAnswer& answer) {
  const json::value* usage = Find(body, "usage");
  if (usage == nullptr || !usage->is_object()) return;
  answer.prompt_tokens = NumberAt(*usage, "prompt_tokens");
  answer.completion_tokens = NumberAt(*usage, "completion_tokens");
}

// Reads one chunk of a stream into `answer`; returns the new text.
absl::StatusOr<std::string> ReadChunk(const json::value& chunk, ChatAnswer& answer) {
  if (const json::value* error = Find(chunk, "error"); error != nullptr && error->is_object()) {
    return absl::InternalError(absl::StrCat("the server broke off: ", TextAt(*error, "message")));
  }
  ReadUsage(chunk, answer);
  const json::value* choice = FirstChoice(chunk);
  if (choice == nullptr) return "";
  if (std::string reason = TextAt(*choice, "finish_reason"); !reason.empty()) {
    answer.finish_reason = std::move(reason);
  }
  const json::value* delta = Find(*choice, "delta");
  return delta == nullptr ? "" : TextAt(*delta, "content");
}

}  // namespace

double ChatAnswer::tokens_per_second() const {
  const double seconds = absl::ToDoubleSeconds(total - to_first_token);
  if (completion_tokens < 2 || seconds <= 0) return 0;
  return static_cast<double>(completion_tokens - 1) / seconds;
}

absl::Status ErrorOf(const HttpResponse& response) {
  std::string message = absl::StrCat("HTTP status ", response.status);
  if (const auto body = Parse(response.body); body.ok()) {
    if (const json::value* error = Find(*body, "error"); error != nullptr) {
      if (std::string said = TextAt(*error, "message"); !said.empty()) message = std::move(said);
    }
  }
  switch (response.status) {
    case 400:
    case 413:
    case 422:
      return absl::InvalidArgumentError(message);
    case 401:
      return absl::UnauthenticatedError(message);
    case 403:
      return absl::PermissionDeniedError(message);
    case 404:
      return absl::NotFoundError(message);
    case 429:
      return absl::ResourceExhaustedError(message);
    case 502:
    case 503:
    case 504:
      return absl::UnavailableError(message);
    default:
      return absl::InternalError(message);
  }
}

absl::StatusOr<ChatAnswer> StreamChat(HttpClient& client, json::object request,
                                      const std::function<void(std::string_view)>& on_text,
                                      const Clock& clock) {
  request["stream"] = true;
  request["stream_options"] = json::object{{"include_usage", true}};
  const std::string body = json::serialize(request);
  ChatAnswer answer;
  std::string last_id;
  bool done = false;
  const absl::Duration start = clock.Monotonic();
  const SseParser::Sink on_event = [&](const SseEvent& event) -> absl::Status {
    if (event.data == "[DONE]") {
      done = true;
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const json::value chunk, Parse(event.data));
    ASSIGN_OR_RETURN(const std::string text, ReadChunk(chunk, answer));
    last_id = event.id;
    if (text.empty()) return absl::OkStatus();
    if (answer.text.empty()) answer.to_first_token = clock.Monotonic() - start;
    answer.text += text;
    on_text(text);
    return absl::OkStatus();
  };
  for (int attempt = 0;; ++attempt) {
    HttpClient::Headers headers;
    if (!last_id.empty()) headers.emplace_back("Last-Event-ID", last_id);
    SseParser parser;
    const absl::StatusOr<HttpResponse> response = client.Post(
        "/v1/chat/completions", body,
        [&](std::string_view bytes) { return parser.Push(bytes, on_event); }, headers);
    if (done) break;
    const bool broken = response.ok() ? response->status == 200 || response->status == 503
                                      : absl::IsUnavailable(response.status());
    if (!broken || last_id.empty() || attempt >= kResumesMax) {
      if (!response.ok()) return response.status();
      if (response->status != 200) return ErrorOf(*response);
      return absl::InternalError("the server's stream ended before the answer did");
    }
    absl::SleepFor(PauseAfter(attempt));
  }
  answer.total = clock.Monotonic() - start;
  return answer;
}

absl::StatusOr<ChatAnswer> CompleteChat(HttpClient& client, const json::object& request,
                                        const Clock& clock) {
  const std::string body = json::serialize(request);
  const std::string name = RandomHex(*Random::Real(), kNameBytes);
  for (int attempt = 0;; ++attempt) {
    const absl::Duration start = clock.Monotonic();
    const absl::StatusOr<HttpResponse> response = client.Post(
        "/v1/chat/completions", body, nullptr,
        {{"Idempotency-Key", name}, {"X-Stainless-Retry-Count", absl::StrCat(attempt)}});
    if (absl::IsUnavailable(response.status()) && attempt < kRetriesMax) {
      absl::SleepFor(PauseAfter(attempt));
      continue;
    }
    if (!response.ok()) return response.status();
    if (response->status == 429 && attempt < kRetriesMax) {
      absl::SleepFor(absl::Seconds(std::clamp(response->retry_after_s, 1, 30)));
      continue;
    }
    if (response->status != 200) return ErrorOf(*response);
    ASSIGN_OR_RETURN(const json::value value, Parse(response->body));
    const json::value* choice = FirstChoice(value);
    const json::value* message = choice == nullptr ? nullptr : Find(*choice, "message");
    if (message == nullptr) return absl::InternalError("the server's answer has no message");
    ChatAnswer answer;
    answer.total = clock.Monotonic() - start;
    answer.text = TextAt(*message, "content");
    answer.finish_reason = TextAt(*choice, "finish_reason");
    ReadUsage(value, answer);
    return answer;
  }
}

absl::StatusOr<std::string> FirstModel(HttpClient& client) {
  ASSIGN_OR_RETURN(const HttpResponse response, client.Get("/v1/models"));
  if (response.status != 200) return ErrorOf(response);
  ASSIGN_OR_RETURN(const json::value value, Parse(response.body));
  const json::value* data = Find(value, "data");
  if (data == nullptr || !data->is_array() || data->get_array().empty()) {
    return absl::UnavailableError("the server lists no model");
  }
  return TextAt(data->get_array().front(), "id");
}

}  // namespace fathom::cli
