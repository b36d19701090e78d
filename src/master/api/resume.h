#pragma once

// Resuming as clients see it: what they may say, and the token that every piece of a stream carries
// (the id of a server-sent event, a field over gRPC). A client that comes back with the last token
// and the same request, at whichever master, gets the rest.
//
//   token = request "." proof "." created "." attempt "." marks [".m" model] [".u"]
//   marks = one a choice, joined by ",": "-" has not begun, N tokens, "f" after it when it has
//   ended
//
// `created`, `attempt` and `model` are hexadecimal; `model`: MarkOf the one that was drawn among a
// route's; ".u": the usage has been told. Pure.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "master/identity/principal.h"
#include "master/models/catalog.h"
#include "master/serving/generation_request.h"
#include "master/serving/resume_keys.h"

namespace fathom::master {

// What a client says.
struct ResumeAsk {
  std::string_view idempotency_key;
  std::string_view token;  // the last one it has had
  absl::Duration hold;     // how long to go on without it
  bool first_try = false;  // nothing runs under its idempotency key yet, by its own word
  std::string_view body;   // its request, byte for byte, without all that is above
};

// How much of a choice a client has.
struct ResumeMark {
  int32_t tokens = 0;
  bool begun = false;
  bool ended = false;
};

struct ResumePlan {
  std::string id;     // of the request
  std::string proof;  // that it is this caller's and this body's
  int64_t created = 0;
  bool look = false;
  bool resumes = false;  // a client that has the token of its last piece
  uint32_t attempt = 0;
  std::vector<ResumeMark> marks;  // of all choices, when it resumes
  std::optional<uint32_t> model;  // mark of the one that it runs on, where its name does not say
  bool usage_told = false;
  absl::Duration hold;

  // What generation `index` of the request's, each of `choices` choices, is to know.
  Resumption For(size_t index, int32_t choices) const;
};

// What decides which model a request gets, before its body is read: the name it will have, or the
// model that a token says it had.
struct RequestDraw {
  std::string id;
  std::optional<uint32_t> model = std::nullopt;
  ModelDraw draw() const { return {.request_id = id, .mark = model}; }
};
RequestDraw DrawOf(const ResumeAsk& ask, const ResumeKeys& keys, const Principal& principal,
                   std::string fresh_id);

// NOT_FOUND for tokens that are none, another caller's or another body's; INVALID_ARGUMENT for keys
// that cannot be. `fresh_id` is taken when the client gives no name to its request. `num_choices`
// is what the body asks for, of all prompts.
absl::StatusOr<ResumePlan> PlanResumption(const ResumeAsk& ask, const ResumeKeys& keys,
                                          const Principal& principal, std::string fresh_id,
                                          int64_t now_seconds, size_t num_choices);

// "30s" or "30": 1 to 600 seconds.
absl::StatusOr<absl::Duration> ParseHold(std::string_view text);

// How far a stream is: knows what the client has already, and writes the tokens. One strand.
class ResumeCursor {
 public:
  ResumeCursor(const ResumePlan& plan, size_t num_choices);

  // True when the client has had this delta; deltas come in order, and those it has had first.
  bool Knows(const GenerationDelta& delta);
  // The delta is told.
  void Advance(const GenerationDelta& delta);
  // What the client had of the choice when it came back.
  const ResumeMark& Had(int32_t choice) const { return had_[choice]; }
  void AppendToken(std::string& out, bool usage_told = false) const;

 private:
  const std::string prefix_;  // up to the attempt
  const bool resumes_;
  const std::vector<ResumeMark> had_;
  const std::optional<uint32_t> model_;
  uint32_t attempt_;
  std::vector<ResumeMark> marks_;
};

}  // namespace fathom::master
