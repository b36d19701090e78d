#pragma once

// The seams where a model's own output language is read: what is reasoning, what is a tool call.
// Every model family has its own; the pass-through leaves everything in the text. One parser a
// choice; one thread at a time.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "master/serving/constraint.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

struct ReasoningSplit {
  std::string content;
  std::string reasoning;
};

class ReasoningParser {
 public:
  virtual ~ReasoningParser() = default;
  virtual ReasoningSplit Push(std::string text) = 0;
  // What was held back, at the end of the choice.
  virtual ReasoningSplit Flush() = 0;
  // Whether what comes next is reasoning, as far as is known.
  virtual bool reasoning() const = 0;
};

struct ToolSplit {
  std::string content;
  std::vector<ToolCallDelta> calls;
};

class ToolParser {
 public:
  virtual ~ToolParser() = default;
  virtual ToolSplit Push(std::string content) = 0;
  virtual ToolSplit Flush() = 0;
};

class PassThroughReasoning final : public ReasoningParser {
 public:
  ReasoningSplit Push(std::string text) override { return {.content = std::move(text)}; }
  ReasoningSplit Flush() override { return {}; }
  bool reasoning() const override { return false; }
};

class PassThroughTools final : public ToolParser {
 public:
  ToolSplit Push(std::string content) override { return {.content = std::move(content)}; }
  ToolSplit Flush() override { return {}; }
};

// The parsers of one choice.
struct OutputParsers {
  std::unique_ptr<ReasoningParser> reasoning = std::make_unique<PassThroughReasoning>();
  std::unique_ptr<ToolParser> tools = std::make_unique<PassThroughTools>();
};

// Those of the model's format. Reasoning is split off in chats, tool calls where the request has
// tools, neither where raw output is asked for.
OutputParsers MakeOutputParsers(const GenerationRequest& request, ReasoningStart start,
                                int32_t choice);

}  // namespace fathom::master
