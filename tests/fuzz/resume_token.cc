// What a client that comes back says of its stream: whatever it is, it is taken or refused, and
// what is taken can be written so that it is taken again and says the same.

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/strings.h"
#include "fuzz/feedback.h"
#include "master/api/resume.h"

namespace fathom::master {
namespace {

constexpr size_t kChoices = 3;
constexpr std::string_view kBody = "body";
constexpr char kId[] = "0123456789abcdef0123456789abcdef";

absl::StatusOr<ResumePlan> Plan(std::string_view token) {
  static const auto& keys = *new ResumeKeys("a secret of the cluster, 32 bytes");
  static const auto& caller = *new Principal{.key_id = "alice", .role = "developer"};
  const ResumeAsk ask{.token = token, .body = kBody};
  const RequestDraw draw = DrawOf(ask, keys, caller, kId);
  auto plan = PlanResumption(ask, keys, caller, draw.id, 1'700'000'000, kChoices);
  if (plan.ok())
    FATHOM_CHECK(plan->model == draw.model, "a model before the body and another after");
  return plan;
}

// Behind an id and the proof that belongs to it, which a fuzzer would not find.
std::string Proven(std::string_view rest) {
  static const auto& keys = *new ResumeKeys("a secret of the cluster, 32 bytes");
  return absl::StrCat(kId, ".", keys.ProofOf(kId, "alice", kBody), ".", ToAbsl(rest));
}

}  // namespace
}  // namespace fathom::master

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fathom::master::Plan;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fathom::fuzz::CheckSound(0, Plan(text).status());
  const auto plan = Plan(fathom::master::Proven(text));
  fathom::fuzz::CheckSound(1, plan.status());
  if (!plan.ok()) return 0;
  FATHOM_CHECK(plan->marks.size() == fathom::master::kChoices, "not of all choices");
  std::string token;
  fathom::master::ResumeCursor(*plan, plan->marks.size()).AppendToken(token, plan->usage_told);
  const auto again = Plan(token);
  FATHOM_CHECK(again.ok(), "a token that was written is refused");
  FATHOM_CHECK(again->attempt == plan->attempt && again->created == plan->created &&
                   again->model == plan->model && again->usage_told == plan->usage_told,
               "a token reads back otherwise");
  return 0;
}
