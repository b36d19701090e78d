#include "master/serving/constraint.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/json_text.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/models/output_format.h"
#include "master/serving/failure.h"
#include "master/serving/tag_finder.h"

namespace fathom::master {
namespace {

// A space or two, or a line break with indentation.
constexpr std::string_view kWhiteSpace =
    R"("x-guidance":{"whitespace_pattern":"[ \\t]{1,2}|\\r?\\n[ \\t]{0,64}"})";
constexpr std::string_view kNoArguments =
    R"({"type":"object","properties":{},"additionalProperties":false})";
constexpr size_t kGrammarBytesMax = 256 * 1024;  // a worker takes no more
constexpr std::string_view kGap = "GAP: /\\n{1,3}/\n";

// A schema with our bound on white space, unless it has options of its own.
std::string BoundedSchema(std::string_view schema) {
  const std::string_view trimmed = TrimStart(schema);
  if (!trimmed.starts_with('{') || schema.find("\"x-guidance\"") != std::string_view::npos) {
    return std::string(schema);
  }
  const std::string_view rest = TrimStart(trimmed.substr(1));
  return absl::StrCat("{", ToAbsl(kWhiteSpace), rest.starts_with('}') ? "" : ",", ToAbsl(rest));
}

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(out, text);  // Lark's strings are JSON's
  return out;
}

// A regular expression between slashes.
std::string LarkRegex(std::string_view regex) {
  std::string out = "/";
  for (size_t i = 0; i < regex.size(); ++i) {
    const char c = regex[i];
    if (c == '\\' && i + 1 < regex.size()) {
      out += c;
      out += regex[++i];
    } else if (c == '/') {
      out += "\\/";
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + "/";
}

class Builder {
 public:
  Builder(const GenerationRequest& request, ReasoningStart start)
      : request_(request), start_(start) {}

  absl::StatusOr<GrammarSpec> Build() {
    const ToolUse& use = request_.tool_use;
    std::vector<std::string> answers;
    if (use.choice != ToolChoice::kRequired && request_.grammar) {
      lark_ += absl::StrCat("body: ", Body(*request_.grammar), "\n");
      answers.emplace_back("body");
    }
    if (use.choice == ToolChoice::kRequired) {
      AddCalls();
      answers.emplace_back("calls");
    } else if (use.choice == ToolChoice::kAuto && Splits()) {
      AddCalls();
      // With a grammar for the answer it is either that or calls.
      answers.emplace_back(request_.grammar ? "calls" : "FREE? calls?");
      if (!request_.grammar) lark_ += "FREE: /(.|\\n)+/\n";
    }
    lark_ += absl::StrCat("answer: ", absl::StrJoin(answers, " | "), "\n");
    AddThoughts();
    if (lark_.find("GAP") != std::string::npos) lark_ += kGap;
    return GrammarSpec{GrammarKind::kLark, std::move(lark_)};
  }

 private:
  bool Splits() const { return request_.model->output_format.tools != ToolStyle::kNone; }

  // A tag as the grammar knows it: a token by its name, else its letters.
  std::string Mark(std::string_view tag) const {
    const auto& tokenizer = request_.model->tokenizer;
    const bool token = tokenizer != nullptr && tokenizer->TokenToId(tag).has_value();
    return token ? std::string(tag) : Quoted(tag);
  }

  std::string Body(const GrammarSpec& grammar) const {
    return grammar.kind == GrammarKind::kRegex ? LarkRegex(grammar.source)
                                               : "%json " + BoundedSchema(grammar.source);
  }

  void AddCalls() {
    const ToolUse& use = request_.tool_use;
    lark_ += use.parallel ? "calls: call (GAP? call)*\n" : "calls: call\n";
    lark_ +=
        absl::StrCat("call: ", Mark(kToolCallBegin), " GAP? tool GAP? ", Mark(kToolCallEnd), "\n");
    std::vector<std::string> names;
    for (size_t i = 0; i < use.tools.size(); ++i) {
      const Tool& tool = use.tools[i];
      names.push_back(absl::StrCat("tool_", i));
      std::string head = R"({"name": )";
      AppendJsonString(head, tool.name);
      head += R"(, "arguments": )";
      const std::string_view schema =
          tool.parameters_json.empty() ? kNoArguments : std::string_view(tool.parameters_json);
      absl::StrAppend(&lark_, "tool_", i, ": ", Quoted(head), " args_", i, " \"}\"\nargs_", i,
                      ": %json ", BoundedSchema(schema), "\n");
    }
    absl::StrAppend(&lark_, "tool: ", absl::StrJoin(names, " | "), "\n");
  }

  void AddThoughts() {
    if (start_ == ReasoningStart::kNever) {
      lark_ = "start: answer\n" + lark_;
      return;
    }
    const bool begun = start_ == ReasoningStart::kBegun;
    const std::string end = Mark(kThinkEnd);
    std::string thoughts =
        begun ? "thoughts: " : absl::StrCat("thoughts: ", Mark(kThinkBegin), " ");
    if (end.starts_with('"')) {
      absl::StrAppend(&thoughts, "thought GAP?\nthought[suffix=", end, "]: /(.|\\n)*/\n");
    } else {
      absl::StrAppend(&thoughts, "THOUGHT? ", end, " GAP?\nTHOUGHT: /(.|\\n)+/\n");
    }
    lark_ = absl::StrCat("start: thoughts", begun ? "" : "?", " answer\n", thoughts, lark_);
  }

  const GenerationRequest& request_;
  const ReasoningStart start_;
  std::string lark_;
};

// Calls that may come need no grammar unless something is to be enforced about them.
bool ConstrainsCalls(const ToolUse& use, const ServedModelInfo& model) {
  if (use.choice != ToolChoice::kAuto) return use.choice == ToolChoice::kRequired;
  if (model.output_format.tools == ToolStyle::kNone) return false;
  return !use.parallel || std::any_of(use.tools.begin(), use.tools.end(),
                                      [](const Tool& tool) { return tool.strict; });
}

}  // namespace

ReasoningStart FindReasoningStart(const ServedModelInfo& model, std::string_view prompt) {
  if (model.output_format.reasoning == ReasoningStyle::kNone) return ReasoningStart::kNever;
  const std::string_view end = TrimEnd(prompt);
  if (end.ends_with(kThinkBegin)) return ReasoningStart::kBegun;
  return end.ends_with(kThinkEnd) ? ReasoningStart::kNever : ReasoningStart::kMayBegin;
}

absl::StatusOr<std::optional<Constraint>> BuildConstraint(const GenerationRequest& request,
                                                          ReasoningStart start) {
  const bool required = request.tool_use.choice == ToolChoice::kRequired;
  if (required && request.model->output_format.tools == ToolStyle::kNone) {
    return BadField("tool_choice", "this model has no format for tool calls that is known here");
  }
  const bool calls = ConstrainsCalls(request.tool_use, *request.model);
  const std::optional<GrammarSpec>& own = request.grammar;
  if (own && own->kind == GrammarKind::kLark) {
    if (calls) return BadField("grammar", "excludes tool calls that must follow a schema");
    return Constraint{*own, "grammar"};
  }
  if (!own && !calls) return std::optional<Constraint>();
  // A mask that lets the tag through would lead a model into reasoning that it never learnt to end.
  if (start == ReasoningStart::kMayBegin && !request.model->template_traits.knows_reasoning) {
    start = ReasoningStart::kNever;
  }
  const std::string_view field = calls ? "tools" : "response_format";
  if (start == ReasoningStart::kNever && !calls && request.tool_use.choice == ToolChoice::kNone) {
    GrammarSpec spec = *own;
    if (spec.kind == GrammarKind::kJsonSchema) spec.source = BoundedSchema(spec.source);
    return Constraint{std::move(spec), field};
  }
  ASSIGN_OR_RETURN(GrammarSpec spec, Builder(request, start).Build());
  if (spec.source.size() > kGrammarBytesMax) {
    return BadField(field, "the schemas are too large to be enforced");
  }
  return Constraint{std::move(spec), field};
}

}  // namespace fathom::master
