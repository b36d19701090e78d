#include "master/serving/choice_text.h"

#include <iterator>
#include <utility>

#include "common/status_macros.h"

namespace fathom::master {

ChoiceText::ChoiceText(std::shared_ptr<const text::Tokenizer> tokenizer,
                       std::vector<std::string> stops, int32_t min_tokens, OutputParsers parsers)
    : decoder_(std::move(tokenizer), /*skip_special_tokens=*/true),
      stops_(std::move(stops)),
      parsers_(std::move(parsers)),
      min_tokens_(min_tokens) {}

absl::Status ChoiceText::Push(TokenId token, GenerationDelta& delta) {
  ++num_tokens_;
  const bool reasoned = parsers_.reasoning->reasoning();
  ASSIGN_OR_RETURN(std::string text, decoder_.Push(token));
  Split(num_tokens_ < min_tokens_ ? std::move(text) : stops_.Push(text), delta);
  if (reasoned || parsers_.reasoning->reasoning()) ++reasoning_tokens_;
  return absl::OkStatus();
}

absl::Status ChoiceText::Finish(GenerationDelta& delta) {
  if (!stops_.stopped()) {
    ASSIGN_OR_RETURN(const std::string rest, decoder_.Flush());
    std::string text = stops_.Push(rest);
    text += stops_.Flush();
    Split(std::move(text), delta);
  }
  Take(parsers_.reasoning->Flush(), delta);
  Take(parsers_.tools->Flush(), delta);
  return absl::OkStatus();
}

void ChoiceText::Split(std::string text, GenerationDelta& delta) {
  if (!text.empty()) Take(parsers_.reasoning->Push(std::move(text)), delta);
}

void ChoiceText::Take(ReasoningSplit split, GenerationDelta& delta) {
  delta.reasoning += split.reasoning;
  if (!split.content.empty()) Take(parsers_.tools->Push(std::move(split.content)), delta);
}

void ChoiceText::Take(ToolSplit split, GenerationDelta& delta) {
  delta.text += split.content;
  delta.tool_calls.insert(delta.tool_calls.end(), std::make_move_iterator(split.calls.begin()),
                          std::make_move_iterator(split.calls.end()));
}

}  // namespace fathom::master
