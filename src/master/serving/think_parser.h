#pragma once

// Splits `<think> ... </think>` off the beginning of an answer. White space around the tags belongs
// to neither part. Tags later in the answer are text. What is thought when the answer ends early is
// reasoning.

#include <string>

#include "master/serving/output_parser.h"
#include "master/serving/tag_finder.h"

namespace fathom::master {

class ThinkParser final : public ReasoningParser {
 public:
  // `thinking`: the prompt opened the tag already.
  explicit ThinkParser(bool thinking);

  ReasoningSplit Push(std::string text) override;
  ReasoningSplit Flush() override;
  bool reasoning() const override { return part_ == Part::kThoughts; }

 private:
  enum class Part { kStart, kThoughts, kGap, kAnswer };

  Part part_;
  std::string start_;         // what came while it is not sure whether it thinks
  bool any_thought_ = false;  // white space before the first one is dropped
  TagFinder end_;
};

}  // namespace fathom::master
