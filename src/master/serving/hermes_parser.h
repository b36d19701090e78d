#pragma once

// Splits `<tool_call> {"name": ..., "arguments": {...}} </tool_call>` off an answer, any number of
// them. A call's name goes out as soon as it is known and its arguments as they are written. What
// turns out to be no call before its name is known stays text, tags and all. White space around
// calls belongs to nobody. A call that breaks later keeps what was already sent.

#include <functional>
#include <optional>
#include <string>

#include "master/serving/call_reader.h"
#include "master/serving/output_parser.h"
#include "master/serving/tag_finder.h"

namespace fathom::master {

class HermesParser final : public ToolParser {
 public:
  // `new_id` makes the id of the call with an index.
  explicit HermesParser(std::function<std::string(int32_t)> new_id);

  ToolSplit Push(std::string content) override;
  ToolSplit Flush() override;

 private:
  enum class Part { kText, kCall, kEnd };

  // Each takes what it can of `text` and returns what is left for the next part.
  std::string ReadText(const std::string& text, ToolSplit& split);
  std::string ReadCall(std::string text, ToolSplit& split);
  std::string ReadEnd(const std::string& text);
  void Report(ToolSplit& split);

  const std::function<std::string(int32_t)> new_id_;
  Part part_ = Part::kText;
  TagFinder begin_;
  TagFinder end_;
  std::optional<CallReader> call_;
  std::string raw_;  // of the call, until its name is known
  bool named_ = false;
  bool after_call_ = false;  // white space is dropped
  int32_t num_calls_ = 0;
};

}  // namespace fathom::master
