#include "master/api/resume.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

constexpr size_t kIdChars = 32;
constexpr size_t kProofChars = 16;
constexpr size_t kKeyBytesMax = 255;
constexpr int kHoldSecondsMax = 600;
// The proof does not cover how far a client says it is; beyond this no request ever comes.
constexpr uint32_t kAttemptMax = 1 << 16;

absl::Status NoSuchRequest() {
  return WithCode(absl::NotFoundError("no request of yours goes on behind this event: the id is "
                                      "not one of this cluster, key and request body"),
                  "cannot_resume");
}

template <typename T>
std::optional<T> Number(absl::string_view text, int base) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::optional<ResumeMark> ParseMark(absl::string_view text) {
  if (text == "-") return ResumeMark{};
  ResumeMark mark{.begun = true, .ended = !text.empty() && text.back() == 'f'};
  if (mark.ended) text.remove_suffix(1);
  const std::optional<int32_t> tokens = Number<int32_t>(text, 10);
  if (!tokens) return std::nullopt;
  mark.tokens = *tokens;
  return mark;
}

// The parts of a token, its proof not checked yet; nor, without a number, how many choices it is
// of.
std::optional<ResumePlan> ParseToken(std::string_view token, std::optional<size_t> num_choices) {
  const std::vector<absl::string_view> parts = absl::StrSplit(ToAbsl(token), '.');
  if (parts.size() < 5) return std::nullopt;
  if (parts[0].size() != kIdChars || parts[1].size() != kProofChars) return std::nullopt;
  const auto created = Number<int64_t>(parts[2], 16);
  const auto attempt = Number<uint32_t>(parts[3], 16);
  const std::vector<absl::string_view> marks = absl::StrSplit(parts[4], ',');
  if (!created || !attempt || *attempt > kAttemptMax) return std::nullopt;
  if (num_choices && marks.size() != *num_choices) return std::nullopt;
  ResumePlan plan;
  plan.id = std::string(parts[0]);
  plan.proof = std::string(parts[1]);
  plan.created = *created;
  plan.attempt = *attempt;
  for (const absl::string_view text : marks) {
    const std::optional<ResumeMark> mark = ParseMark(text);
    if (!mark) return std::nullopt;
    plan.marks.push_back(*mark);
  }
  size_t next = 5;
  if (next < parts.size() && absl::StartsWith(parts[next], "m")) {
    plan.model = Number<uint32_t>(parts[next++].substr(1), 16);
    if (!plan.model) return std::nullopt;
  }
  if (next < parts.size() && parts[next] == "u") {
    plan.usage_told = true;
    ++next;
  }
  if (next != parts.size()) return std::nullopt;
  return plan;
}

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

}  // namespace

Resumption ResumePlan::For(size_t index, int32_t choices) const {
  Resumption resumption{
      .context = proof, .look = look, .attempt = attempt, .have = {}, .hold = hold};
  if (resumes) {
    const size_t first = index * static_cast<size_t>(choices);
    for (int32_t i = 0; i < choices; ++i) resumption.have.push_back(marks[first + i].tokens);
  }
  return resumption;
}

RequestDraw DrawOf(const ResumeAsk& ask, const ResumeKeys& keys, const Principal& principal,
                   std::string fresh_id) {
  if (!ask.token.empty()) {
    // One that is none is refused once the body is known.
    if (const auto plan = ParseToken(ask.token, std::nullopt)) return {plan->id, plan->model};
  }
  if (ask.idempotency_key.empty()) return {std::move(fresh_id), std::nullopt};
  return {keys.IdOf(principal.key_id, ask.idempotency_key), std::nullopt};
}

absl::StatusOr<ResumePlan> PlanResumption(const ResumeAsk& ask, const ResumeKeys& keys,
                                          const Principal& principal, std::string fresh_id,
                                          int64_t now_seconds, size_t num_choices) {
  const std::string_view key = ask.idempotency_key;
  if (key.size() > kKeyBytesMax || !IsPrintable(key)) {
    return BadField("Idempotency-Key", "must be 1 to 255 printable characters without spaces");
  }
  ResumePlan plan;
  if (!ask.token.empty()) {
    std::optional<ResumePlan> parsed = ParseToken(ask.token, num_choices);
    if (!parsed) return NoSuchRequest();
    plan = *std::move(parsed);
    const std::string proof = keys.ProofOf(plan.id, principal.key_id, ask.body);
    if (!EqualInConstantTime(proof, plan.proof)) return NoSuchRequest();
    plan.look = true;
    plan.resumes = true;
  } else {
    plan.id = key.empty() ? std::move(fresh_id) : keys.IdOf(principal.key_id, key);
    plan.proof = keys.ProofOf(plan.id, principal.key_id, ask.body);
    plan.created = now_seconds;
    plan.look = !key.empty() && !ask.first_try;
  }
  plan.hold = ask.hold;
  return plan;
}

absl::StatusOr<absl::Duration> ParseHold(std::string_view text) {
  if (!text.empty() && text.back() == 's') text.remove_suffix(1);
  const std::optional<int> seconds = Number<int>(ToAbsl(text), 10);
  if (!seconds || *seconds < 1 || *seconds > kHoldSecondsMax) {
    return BadField("X-Fathom-Resume",
                    absl::StrCat("must be 1 to ", kHoldSecondsMax, " seconds, such as 30s"));
  }
  return absl::Seconds(*seconds);
}

ResumeCursor::ResumeCursor(const ResumePlan& plan, size_t num_choices)
    : prefix_(absl::StrCat(plan.id, ".", plan.proof, ".", absl::Hex(plan.created), ".")),
      resumes_(plan.resumes),
      had_(plan.resumes ? plan.marks : std::vector<ResumeMark>(num_choices)),
      model_(plan.model),
      attempt_(plan.attempt),
      marks_(num_choices) {
  for (size_t i = 0; i < num_choices; ++i) marks_[i].begun = had_[i].begun;
}

bool ResumeCursor::Knows(const GenerationDelta& delta) {
  if (!resumes_) return false;
  const ResumeMark& had = had_[delta.choice];
  const int64_t end =
      int64_t{marks_[delta.choice].tokens} + static_cast<int64_t>(delta.tokens.size());
  const bool known =
      had.begun && end <= had.tokens && (delta.finish == FinishReason::kNone || had.ended);
  if (known) Advance(delta);
  return known;
}

void ResumeCursor::Advance(const GenerationDelta& delta) {
  ResumeMark& mark = marks_[delta.choice];
  mark.begun = true;
  mark.tokens += static_cast<int32_t>(delta.tokens.size());
  mark.ended = mark.ended || delta.finish != FinishReason::kNone;
  attempt_ = std::max(attempt_, delta.attempt);
}

void ResumeCursor::AppendToken(std::string& out, bool usage_told) const {
  absl::StrAppend(&out, prefix_, absl::Hex(attempt_));
  char separator = '.';
  for (const ResumeMark& mark : marks_) {
    out += std::exchange(separator, ',');
    if (!mark.begun) {
      out += '-';
      continue;
    }
    absl::StrAppend(&out, mark.tokens, mark.ended ? "f" : "");
  }
  if (model_) absl::StrAppend(&out, ".m", absl::Hex(*model_));
  if (usage_told) out += ".u";
}

}  // namespace fathom::master
