#include "cli/load/answer.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace fathom::cli {

std::optional<double> Answer::tpot_ms() const {
  if (output_tokens < 2) return std::nullopt;
  return static_cast<double>(end_ns - first_ns) * 1e-6 / static_cast<double>(output_tokens - 1);
}

void AnswerMeter::OnPiece(int64_t now_ns, std::string_view text) {
  if (answer_.pieces++ == 0) {
    answer_.first_ns = now_ns;
  } else {
    answer_.gaps_ms.push_back(static_cast<float>(now_ns - last_ns_) * 1e-6F);
  }
  last_ns_ = now_ns;
  if (check_ && check_status_.ok()) check_status_ = check_->Push(text);
}

void AnswerMeter::OnUsage(int64_t prompt_tokens, int64_t output_tokens) {
  answer_.prompt_tokens = prompt_tokens;
  answer_.output_tokens = output_tokens;
}

Answer AnswerMeter::Finish(absl::Status status, int64_t now_ns) {
  answer_.end_ns = now_ns;
  // Servers that count nothing send a token a piece.
  if (answer_.output_tokens == 0) answer_.output_tokens = answer_.pieces;
  if (status.ok() && answer_.pieces == 0) status = absl::InternalError("an answer without output");
  if (status.ok()) status = check_status_;
  if (status.ok() && check_ && check_->length() != answer_.output_tokens) {
    status = absl::DataLossError(absl::StrCat("the server counts ", answer_.output_tokens,
                                              " tokens and sent ", check_->length()));
  }
  answer_.status = std::move(status);
  return std::move(answer_);
}

}  // namespace fathom::cli
