#include "cli/load/openai_stream.h"

#include <array>
#include <boost/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

const json::object* ObjectAt(const json::object& object, std::string_view name) {
  const json::value* found = object.if_contains(name);
  return found == nullptr ? nullptr : found->if_object();
}

std::string_view TextAt(const json::object& object, std::string_view name) {
  const json::value* found = object.if_contains(name);
  const json::string* text = found == nullptr ? nullptr : found->if_string();
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

int64_t NumberAt(const json::object& object, std::string_view name) {
  const json::value* found = object.if_contains(name);
  return found != nullptr && found->is_int64() ? found->get_int64() : 0;
}

// The new text of one choice, whichever of its forms it has.
std::string_view OutputOf(const json::object& choice) {
  if (const std::string_view text = TextAt(choice, "text"); !text.empty()) return text;
  const json::object* delta = ObjectAt(choice, "delta");
  if (delta == nullptr) delta = ObjectAt(choice, "message");
  if (delta == nullptr) return {};
  for (const std::string_view name : {"content", "reasoning_content", "reasoning"}) {
    if (const std::string_view text = TextAt(*delta, name); !text.empty()) return text;
  }
  const bool calls = delta->contains("tool_calls") && !delta->at("tool_calls").is_null();
  return calls ? "{}" : "";
}

}  // namespace

absl::Status OpenAiStream::Push(std::string_view bytes, int64_t now_ns) {
  return parser_.Push(bytes, [&](const SseEvent& event) { return OnEvent(event, now_ns); });
}

absl::Status OpenAiStream::OnEvent(const SseEvent& event, int64_t now_ns) {
  if (event.data == "[DONE]") {
    done_ = true;
    return absl::OkStatus();
  }
  return ReadChunk(event.data, now_ns, meter_);
}

absl::Status OpenAiStream::Finish() const {
  if (done_) return absl::OkStatus();
  return absl::UnavailableError("the stream ended before the answer did");
}

absl::Status ReadChunk(std::string_view body, int64_t now_ns, AnswerMeter& meter) {
  // Most chunks fit: no allocation for each of their members.
  std::array<unsigned char, 4096> memory;
  json::monotonic_resource resource(memory.data(), memory.size());
  boost::system::error_code error;
  const json::value answer = json::parse(body, error, &resource);
  const json::object* object = answer.if_object();
  if (error || object == nullptr) {
    return absl::InternalError(
        absl::StrCat("the server sent no JSON: ", ToAbsl(body.substr(0, 100))));
  }
  if (const json::object* said = ObjectAt(*object, "error")) {
    return absl::AbortedError(
        absl::StrCat("the server broke off: ", ToAbsl(TextAt(*said, "message"))));
  }
  const json::value* choices = object->if_contains("choices");
  if (choices != nullptr && choices->is_array()) {
    for (const json::value& choice : choices->get_array()) {
      const json::object* inner = choice.if_object();
      const std::string_view text = inner == nullptr ? std::string_view() : OutputOf(*inner);
      if (!text.empty()) meter.OnPiece(now_ns, text);
    }
  }
  if (const json::object* usage = ObjectAt(*object, "usage")) {
    meter.OnUsage(NumberAt(*usage, "prompt_tokens"), NumberAt(*usage, "completion_tokens"));
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
