#include "cli/load/tally.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/strings.h"

namespace fathom::cli {

bool Goodput::Kept(const Answer& answer) const {
  if (ttft_ms && answer.ttft_ms() > *ttft_ms) return false;
  if (itl_ms && answer.tpot_ms().value_or(0) > *itl_ms) return false;
  return !e2e_ms || answer.e2e_ms() <= *e2e_ms;
}

absl::StatusOr<Goodput> ParseGoodput(std::string_view text) {
  Goodput goodput;
  for (const absl::string_view part : absl::StrSplit(ToAbsl(text), ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits(':', 1));
    std::optional<double>* const limit = pair.first == "ttft"  ? &goodput.ttft_ms
                                         : pair.first == "itl" ? &goodput.itl_ms
                                         : pair.first == "e2e" ? &goodput.e2e_ms
                                                               : nullptr;
    double ms = 0;
    if (limit == nullptr || *limit || !absl::SimpleAtod(pair.second, &ms) || !(ms > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", part, "': a limit is ttft:MS, itl:MS or e2e:MS, each once"));
    }
    *limit = ms;
  }
  return goodput;
}

void Tally::Add(const Answer& answer) {
  if (!answer.status.ok()) {
    ++failed_;
    ErrorCount& errors = errors_[absl::StatusCodeToString(answer.status.code())];
    if (errors.count++ == 0) errors.first = std::string(Message(answer.status));
    if (first_error_.ok()) first_error_ = answer.status;
    return;
  }
  ++ok_;
  good_ += goodput_.Kept(answer) ? 1 : 0;
  prompt_tokens_ += answer.prompt_tokens;
  output_tokens_ += answer.output_tokens;
  pieces_ += answer.pieces;
  ttft_ms_.push_back(static_cast<float>(answer.ttft_ms()));
  e2e_ms_.push_back(static_cast<float>(answer.e2e_ms()));
  lateness_ms_.push_back(static_cast<float>(answer.sent_ns - answer.scheduled_ns) * 1e-6F);
  if (const auto tpot_ms = answer.tpot_ms()) tpot_ms_.push_back(static_cast<float>(*tpot_ms));
  itl_ms_.insert(itl_ms_.end(), answer.gaps_ms.begin(), answer.gaps_ms.end());
}

}  // namespace fathom::cli
