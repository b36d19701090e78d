// Server-sent events as the command line reads them: the pieces a stream comes in change nothing,
// and the events are those of the standard's algorithm on the whole text.

#include <string>
#include <string_view>
#include <vector>

#include "cli/http_client/sse_parser.h"
#include "cli/load/openai_stream.h"
#include "common/check.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"

namespace fathom::cli {
namespace {

constexpr size_t kEventBytesMax = 4096;

struct Read {
  std::vector<SseEvent> events;
  absl::Status status;
};

Read ReadPieces(const std::vector<std::string_view>& pieces) {
  Read out;
  SseParser parser(kEventBytesMax);
  for (const std::string_view piece : pieces) {
    out.status = parser.Push(piece, [&out](const SseEvent& event) {
      out.events.push_back(event);
      return absl::OkStatus();
    });
    if (!out.status.ok()) break;
  }
  return out;
}

// WHATWG HTML, "Interpreting an event stream", on a stream that is all there.
std::vector<SseEvent> Interpret(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<SseEvent> events;
  std::string data, type, id;
  bool any_data = false;
  for (size_t end = text.find_first_of("\r\n"); end != std::string_view::npos;
       end = text.find_first_of("\r\n")) {
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(text.substr(end, 2) == "\r\n" ? end + 2 : end + 1);
    if (line.empty()) {
      if (any_data) {
        data.pop_back();
        events.push_back({type.empty() ? "message" : type, data, id});
      }
      data.clear();
      type.clear();
      any_data = false;
      continue;
    }
    const size_t colon = line.find(':');
    const std::string_view name = line.substr(0, colon);
    std::string_view value = colon == std::string_view::npos ? "" : line.substr(colon + 1);
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (name == "data") {
      data.append(value).push_back('\n');
      any_data = true;
    } else if (name == "event") {
      type = value;
    } else if (name == "id" && value.find('\0') == std::string_view::npos) {
      id = value;
    }
  }
  return events;
}

bool Same(const SseEvent& a, const SseEvent& b) {
  return a.type == b.type && a.data == b.data && a.id == b.id;
}

void CheckSame(const std::vector<SseEvent>& a, const std::vector<SseEvent>& b) {
  FATHOM_CHECK(a.size() == b.size(), "another number of events");
  for (size_t i = 0; i < a.size(); ++i) FATHOM_CHECK(Same(a[i], b[i]), "another event");
}

}  // namespace

// How to cut it, then the stream.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint8_t seed = input.Byte();
  const std::string_view text = input.Rest();
  const Read whole = ReadPieces({text});
  const Read cut = ReadPieces(fuzz::Cut(text, seed));
  CheckSame(whole.events, cut.events);
  FATHOM_CHECK(whole.status == cut.status, "pieces change the outcome");
  if (whole.status.ok()) CheckSame(whole.events, Interpret(text));

  AnswerMeter meter(0, std::nullopt);
  OpenAiStream stream(meter);
  for (const std::string_view piece : fuzz::Cut(text, seed)) {
    const absl::Status status = stream.Push(piece, 1);
    fuzz::CheckSound(1, status);
    if (!status.ok()) break;
  }
  const Answer answer = meter.Finish(stream.Finish(), 2);
  FATHOM_CHECK(answer.gaps_ms.size() <= static_cast<size_t>(answer.pieces),
               "more gaps than pieces");
  return 0;
}

}  // namespace fathom::cli
