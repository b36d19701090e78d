#include "master/serving/think_parser.h"

#include <utility>

#include "master/models/output_format.h"

namespace fathom::master {

ThinkParser::ThinkParser(bool thinking)
    : part_(thinking ? Part::kThoughts : Part::kStart), end_(kThinkEnd) {}

ReasoningSplit ThinkParser::Push(std::string text) {
  if (part_ == Part::kAnswer) return {.content = std::move(text)};
  if (part_ == Part::kStart) {
    start_ += text;
    const std::string_view begun = TrimStart(start_);
    if (!begun.starts_with(kThinkBegin)) {
      if (kThinkBegin.starts_with(begun)) return {};
      part_ = Part::kAnswer;
      return {.content = std::exchange(start_, {})};
    }
    text = begun.substr(kThinkBegin.size());
    start_.clear();
    part_ = Part::kThoughts;
  }
  ReasoningSplit split;
  if (part_ == Part::kThoughts) {
    if (!any_thought_) text = TrimStart(text);
    if (text.empty()) return split;
    any_thought_ = true;
    if (!end_.Push(text, split.reasoning)) return split;
    part_ = Part::kGap;
    text = end_.Rest();
  }
  const std::string_view answer = TrimStart(text);
  if (answer.empty()) return split;
  part_ = Part::kAnswer;
  split.content = answer;
  return split;
}

ReasoningSplit ThinkParser::Flush() {
  if (part_ == Part::kStart) return {.content = std::exchange(start_, {})};
  if (part_ == Part::kThoughts) return {.reasoning = std::string(TrimEnd(end_.Rest()))};
  return {};
}

}  // namespace fathom::master
