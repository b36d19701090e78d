#include "master/serving/hermes_parser.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "master/models/output_format.h"

namespace fathom::master {

HermesParser::HermesParser(std::function<std::string(int32_t)> new_id)
    : new_id_(std::move(new_id)), begin_(kToolCallBegin), end_(kToolCallEnd) {}

ToolSplit HermesParser::Push(std::string content) {
  ToolSplit split;
  while (!content.empty()) {
    switch (part_) {
      case Part::kText:
        content = ReadText(content, split);
        break;
      case Part::kCall:
        content = ReadCall(std::move(content), split);
        break;
      case Part::kEnd:
        content = ReadEnd(content);
        break;
    }
  }
  return split;
}

std::string HermesParser::ReadText(const std::string& text, ToolSplit& split) {
  std::string sure;
  const bool found = begin_.Push(text, sure);
  if (after_call_) sure = TrimStart(sure);
  if (!sure.empty()) after_call_ = false;
  split.content += sure;
  if (!found) return {};
  part_ = Part::kCall;
  call_.emplace();
  raw_ = kToolCallBegin;
  named_ = false;
  return begin_.Rest();
}

std::string HermesParser::ReadCall(std::string text, ToolSplit& split) {
  size_t consumed = 0;
  const CallReader::State state = call_->Push(text, consumed);
  if (!named_) raw_.append(text, 0, consumed);
  Report(split);
  text.erase(0, consumed);
  if (state == CallReader::State::kReading) return text;
  if (named_) {
    part_ = Part::kEnd;
    return text;
  }
  // No call after all. The tag itself must not be found again.
  split.content += std::exchange(raw_, {});
  after_call_ = false;
  part_ = Part::kText;
  return text;
}

std::string HermesParser::ReadEnd(const std::string& text) {
  std::string lost;
  if (!end_.Push(text, lost)) return {};
  part_ = Part::kText;
  after_call_ = true;
  return end_.Rest();
}

void HermesParser::Report(ToolSplit& split) {
  if (call_->name().empty()) return;
  const bool first = !std::exchange(named_, true);
  std::string arguments = call_->TakeArguments();
  if (first) {
    raw_.clear();
    const int32_t index = num_calls_++;
    split.calls.push_back({.index = index,
                           .id = new_id_(index),
                           .name = call_->name(),
                           .arguments = std::move(arguments)});
  } else if (!arguments.empty()) {
    split.calls.push_back({.index = num_calls_ - 1, .arguments = std::move(arguments)});
  }
}

ToolSplit HermesParser::Flush() {
  ToolSplit split;
  if (part_ == Part::kText) {
    std::string rest = begin_.Rest();
    split.content = after_call_ ? std::string(TrimStart(rest)) : std::move(rest);
  } else if (part_ == Part::kCall && !named_) {
    split.content = std::exchange(raw_, {});
  }
  return split;
}

}  // namespace fathom::master
