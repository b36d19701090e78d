// What a client that comes back says of its stream, as a token and in the headers of HTTP: whatever
// it is, it is taken or refused, and what is taken can be written so that it is taken again and
// says the same, also after the stream has gone on.

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/strings.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "master/api/resume.h"
#include "master/api/resume_headers.h"

namespace fathom::master {
namespace {

constexpr size_t kChoices = 3;
constexpr std::string_view kBody = "body";
constexpr char kId[] = "0123456789abcdef0123456789abcdef";

absl::StatusOr<ResumePlan> Plan(const ResumeAsk& ask) {
  static const auto& keys = *new ResumeKeys("a secret of the cluster, 32 bytes");
  static const auto& caller = *new Principal{.key_id = "alice", .role = "developer"};
  const RequestDraw draw = DrawOf(ask, keys, caller, kId);
  auto plan = PlanResumption(ask, keys, caller, draw.id, 1'700'000'000, kChoices);
  if (!plan.ok()) return plan;
  FATHOM_CHECK(plan->model == draw.model, "a model before the body and another after");
  FATHOM_CHECK(plan->id == draw.id, "a name before the body and another after");
  FATHOM_CHECK(plan->resumes == !ask.token.empty(), "resumes without a token, or not with one");
  return plan;
}
absl::StatusOr<ResumePlan> Plan(std::string_view token) {
  return Plan(ResumeAsk{.token = token, .body = kBody});
}

// Behind an id and the proof that belongs to it, which a fuzzer would not find.
std::string Proven(std::string_view rest) {
  static const auto& keys = *new ResumeKeys("a secret of the cluster, 32 bytes");
  return absl::StrCat(kId, ".", keys.ProofOf(kId, "alice", kBody), ".", ToAbsl(rest));
}

void CheckSame(const ResumePlan& one, const ResumePlan& other) {
  FATHOM_CHECK(other.attempt == one.attempt && other.created == one.created &&
                   other.model == one.model && other.usage_told == one.usage_told,
               "a token reads back otherwise");
}

// As HTTP has it of a header's value.
std::string_view Trimmed(std::string_view value) {
  const size_t first = value.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return value.substr(first, value.find_last_not_of(" \t") - first + 1);
}

void CheckHeaders(std::string_view token, std::string_view key, std::string_view hold) {
  HttpCall call;
  const auto set = [&call](const char* name, std::string_view value) {
    if (!value.empty()) call.headers.set(name, {value.data(), value.size()});
  };
  set("Last-Event-ID", token);
  set("idempotency-key", key);
  set("X-Fathom-Resume", hold);
  const auto ask = ReadResumeAsk(call, kBody);
  fuzz::CheckSound(2, ask.status());
  if (!ask.ok()) return;
  FATHOM_CHECK(ask->token == Trimmed(token) && ask->idempotency_key == Trimmed(key),
               "another header");
  FATHOM_CHECK(ask->hold <= absl::Minutes(10) &&
                   (ask->hold > absl::ZeroDuration()) == !Trimmed(hold).empty(),
               "held for ever, or not at all");
  const auto plan = Plan(*ask);
  fuzz::CheckSound(3, plan.status());
  if (plan.ok()) FATHOM_CHECK(plan->hold == ask->hold, "held for another time");
}

// The stream goes on, each byte a delta: all that the client had comes again first, and is known.
void GoOn(const ResumePlan& plan, std::string_view deltas) {
  ResumeCursor cursor(plan, kChoices);
  std::array<int64_t, kChoices> tokens{};
  std::array<bool, kChoices> ended{};
  for (const char byte : deltas) {
    const auto bits = static_cast<unsigned char>(byte);
    const size_t at = bits % kChoices;
    if (ended[at]) continue;
    const ResumeMark& had = plan.marks[at];
    FATHOM_CHECK(cursor.Had(static_cast<int32_t>(at)).tokens == had.tokens, "had another number");
    GenerationDelta delta;
    delta.choice = static_cast<int32_t>(at);
    delta.attempt = plan.attempt + bits % 2;
    delta.tokens.resize(bits / 4 % 8);
    if (bits >= 0xC0) delta.finish = FinishReason::kStop;
    tokens[at] += static_cast<int64_t>(delta.tokens.size());
    ended[at] = delta.finish != FinishReason::kNone;
    const bool known = had.begun && tokens[at] <= had.tokens && (!ended[at] || had.ended);
    FATHOM_CHECK(cursor.Knows(delta) == known, "told twice, or never");
    if (!known) cursor.Advance(delta);
  }
  std::string token;
  cursor.AppendToken(token);
  const auto again = Plan(token);
  FATHOM_CHECK(again.ok(), "a token that was written is refused");
  for (size_t i = 0; i < kChoices; ++i) {
    const bool begun = tokens[i] > 0 || ended[i] || plan.marks[i].begun;
    FATHOM_CHECK(again->marks[i].tokens == tokens[i] && again->marks[i].ended == ended[i] &&
                     (again->marks[i].begun || !begun),
                 "a token of another place");
  }
}

}  // namespace
}  // namespace fathom::master

// The token; a newline; an idempotency key; a newline; how long to hold; a newline; deltas, a byte
// each.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fathom::master::Plan;
  fathom::fuzz::Input input(data, size);
  const std::string_view text = input.Line();
  const std::string_view key = input.Line();
  const std::string_view hold = input.Line();
  fathom::fuzz::CheckSound(0, Plan(text).status());
  fathom::master::CheckHeaders(text, key, hold);
  const std::string proven = fathom::master::Proven(text);
  fathom::master::CheckHeaders(proven, key, hold);
  const auto plan = Plan(proven);
  fathom::fuzz::CheckSound(1, plan.status());
  if (!plan.ok()) return 0;
  FATHOM_CHECK(plan->marks.size() == fathom::master::kChoices, "not of all choices");
  std::string token;
  fathom::master::ResumeCursor(*plan, plan->marks.size()).AppendToken(token, plan->usage_told);
  const auto again = Plan(token);
  FATHOM_CHECK(again.ok(), "a token that was written is refused");
  fathom::master::CheckSame(*plan, *again);
  fathom::master::GoOn(*plan, input.Rest());
  return 0;
}
