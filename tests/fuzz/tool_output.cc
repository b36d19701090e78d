// A model's output, split into reasoning, text and tool calls: where tokens end changes nothing, no
// part says what the model did not, and stop strings end the text alike.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "fuzz/input.h"
#include "master/models/output_format.h"
#include "master/serving/hermes_parser.h"
#include "master/serving/stop_matcher.h"
#include "master/serving/think_parser.h"

namespace fathom::master {
namespace {

struct Call {
  std::string id;
  std::string name;
  std::string arguments;
  bool operator==(const Call&) const = default;
};

struct Output {
  std::string reasoning;
  std::string content;
  std::vector<Call> calls;
  bool operator==(const Output&) const = default;
};

// Stop strings, reasoning, tools: the chain of ChoiceText, without its tokens.
class Chain {
 public:
  Chain(bool thinking, std::vector<std::string> stops)
      : stops_(std::move(stops)),
        think_(thinking),
        hermes_([](int32_t index) { return std::to_string(index); }) {}

  void Push(std::string_view piece) {
    std::string text = stops_.Push(piece);
    if (!text.empty()) Take(think_.Push(std::move(text)));
  }
  Output Finish() {
    if (!stops_.stopped()) {
      std::string text = stops_.Flush();
      if (!text.empty()) Take(think_.Push(std::move(text)));
    }
    Take(think_.Flush());
    Take(hermes_.Flush());
    return out_;
  }

 private:
  void Take(ReasoningSplit split) {
    out_.reasoning += split.reasoning;
    if (!split.content.empty()) Take(hermes_.Push(std::move(split.content)));
  }
  void Take(const ToolSplit& split) {
    out_.content += split.content;
    for (const ToolCallDelta& delta : split.calls) {
      if (!delta.name.empty()) {
        FATHOM_CHECK(static_cast<size_t>(delta.index) == out_.calls.size(), "an index skipped");
        out_.calls.push_back({delta.id, delta.name, ""});
      }
      FATHOM_CHECK(static_cast<size_t>(delta.index) + 1 == out_.calls.size(),
                   "a closed call goes on");
      out_.calls.back().arguments += delta.arguments;
    }
  }

  StopMatcher stops_;
  ThinkParser think_;
  HermesParser hermes_;
  Output out_;
};

Output Split(const std::vector<std::string_view>& pieces, bool thinking,
             const std::vector<std::string>& stops) {
  Chain chain(thinking, stops);
  for (const std::string_view piece : pieces) chain.Push(piece);
  return chain.Finish();
}

bool IsSubsequence(std::string_view part, std::string_view whole) {
  for (const char c : part) {
    const size_t at = whole.find(c);
    if (at == std::string_view::npos) return false;
    whole.remove_prefix(at + 1);
  }
  return true;
}

}  // namespace

// '1': the prompt opened the reasoning; how to cut; a stop string up to the newline; the output.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const bool thinking = input.Byte() == '1';
  const uint8_t seed = input.Byte();
  std::vector<std::string> stops;
  if (const std::string_view stop = input.Line(); !stop.empty()) stops.emplace_back(stop);
  const std::string_view text = input.Rest();

  const Output whole = Split({text}, thinking, stops);
  FATHOM_CHECK(Split(fuzz::Cut(text, '0'), thinking, stops) == whole, "bytes differ");
  FATHOM_CHECK(Split(fuzz::Cut(text, seed), thinking, stops) == whole, "pieces differ");

  const std::string_view heard =
      stops.empty() ? text : text.substr(0, std::min(text.find(stops[0]), text.size()));
  FATHOM_CHECK(IsSubsequence(whole.reasoning + whole.content, heard), "text out of nowhere");
  if (heard.find(kToolCallBegin) == std::string_view::npos) {
    FATHOM_CHECK(whole.calls.empty(), "a call without its tag");
    if (!thinking && heard.find(kThinkBegin) == std::string_view::npos) {
      FATHOM_CHECK(whole.content == heard, "plain text was changed");
    }
  }
  for (const auto& call : whole.calls) FATHOM_CHECK(!call.name.empty(), "a call without a name");
  return 0;
}

}  // namespace fathom::master
