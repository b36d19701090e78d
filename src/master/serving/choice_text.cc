#include "master/serving/choice_text.h"

#include <utility>

#include "common/status_macros.h"

namespace fathom::master {

ChoiceText::ChoiceText(std::shared_ptr<const text::Tokenizer> tokenizer,
                       std::vector<std::string> stops, int32_t min_tokens)
    : decoder_(std::move(tokenizer), /*skip_special_tokens=*/true),
      stops_(std::move(stops)),
      min_tokens_(min_tokens) {}

absl::StatusOr<std::string> ChoiceText::Push(TokenId token) {
  ++num_tokens_;
  ASSIGN_OR_RETURN(std::string text, decoder_.Push(token));
  if (num_tokens_ < min_tokens_) return text;
  return stops_.Push(text);
}

absl::StatusOr<std::string> ChoiceText::Finish() {
  ASSIGN_OR_RETURN(const std::string rest, decoder_.Flush());
  std::string text = stops_.Push(rest);
  text += stops_.Flush();
  return text;
}

}  // namespace fathom::master
