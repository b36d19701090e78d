#pragma once

// What OpenAI's answers say, read for measuring: when output came and how many tokens the server
// counted. Chats and completions alike. One thread.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "cli/http_client/sse_parser.h"
#include "cli/load/answer.h"

namespace fathom::cli {

class OpenAiStream {
 public:
  explicit OpenAiStream(AnswerMeter& meter) : meter_(meter) {}

  // Bytes of the body that came at `now_ns`. An error: the server sent one, or what is no chunk.
  absl::Status Push(std::string_view bytes, int64_t now_ns);
  // OK when the answer came to its end.
  absl::Status Finish() const;

 private:
  absl::Status OnEvent(const SseEvent& event, int64_t now_ns);

  AnswerMeter& meter_;
  SseParser parser_;
  bool done_ = false;
};

// A chunk that came at `now_ns`, or a whole answer, which is read alike.
absl::Status ReadChunk(std::string_view body, int64_t now_ns, AnswerMeter& meter);

}  // namespace fathom::cli
