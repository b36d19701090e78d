#include "master/serving/constraint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "master/serving/failure.h"
#include "text/text.h"

namespace fathom::master {
namespace {

// models/tiny as if its template knew of reasoning.
const ServedModelInfo& Tiny() {
  static const ServedModelInfo kModel = [] {
    const char* root = std::getenv("FATHOM_SOURCE_DIR");
    const auto model = LoadServedModel(absl::StrCat(root == nullptr ? "." : root, "/models/tiny"),
                                       "tiny", absl::UnixEpoch());
    EXPECT_TRUE(model.ok()) << model.status();
    ServedModelInfo copy = **model;
    EXPECT_FALSE(copy.template_traits.knows_reasoning);
    copy.template_traits.knows_reasoning = true;
    return copy;
  }();
  return kModel;
}

// A model whose tags are letters, as one that is told to write them.
const ServedModelInfo& WithoutTags() {
  static const ModelPtr kModel = [] {
    auto model = std::make_shared<ServedModelInfo>();
    auto tokenizer = text::Tokenizer::FromJson(
        R"({"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})");
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    model->tokenizer = *tokenizer;
    model->output_format = {ReasoningStyle::kThink, ToolStyle::kHermes};
    model->template_traits.knows_reasoning = true;
    return model;
  }();
  return *kModel;
}

GenerationRequest Request(const ServedModelInfo& model = Tiny()) {
  GenerationRequest request;
  request.model = ModelPtr(&model, [](const ServedModelInfo*) {});
  return request;
}

ToolUse Use(ToolChoice choice, bool parallel = true, bool strict = false) {
  return {.choice = choice,
          .parallel = parallel,
          .tools = {{.name = "get \"it\"",
                     .parameters_json = R"({"type":"object","properties":{"n":{"type":"integer"}},)"
                                        R"("required":["n"],"additionalProperties":false})",
                     .strict = strict},
                    {.name = "stop"}}};
}

constexpr TokenId kEnd = 3197;  // <|im_end|>

// Whether the worker's matcher takes the whole of `text` and may end after it.
bool Matches(const GrammarSpec& spec, std::string_view text) {
  static const auto kCompiler = text::GrammarCompiler::Create(Tiny().tokenizer, Tiny().vocab_size,
                                                              std::vector<TokenId>{kEnd});
  EXPECT_TRUE(kCompiler.ok());
  const auto kind = static_cast<text::GrammarKind>(spec.kind);
  auto matcher = (*kCompiler)->Compile(kind, spec.source);
  EXPECT_TRUE(matcher.ok()) << matcher.status() << "\n" << spec.source;
  if (!matcher.ok()) return false;
  const auto ids = Tiny().tokenizer->Encode(text, {.add_special_tokens = false});
  EXPECT_TRUE(ids.ok());
  for (const TokenId id : *ids) {
    if (!matcher->Accept(id).ok()) return false;
  }
  return matcher->Accept(kEnd).ok();
}

GrammarSpec Build(const GenerationRequest& request, ReasoningStart start) {
  const auto built = BuildConstraint(request, start);
  EXPECT_TRUE(built.ok()) << built.status();
  EXPECT_TRUE(built.ok() && built->has_value());
  return built.ok() && *built ? (*built)->grammar : GrammarSpec();
}

constexpr std::string_view kGet =
    "<tool_call>\n{\"name\": \"get \\\"it\\\"\", \"arguments\": {\"n\": 4}}\n</tool_call>";
constexpr std::string_view kStop =
    "<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>";

TEST(ConstraintTest, NothingWhereAnythingGoes) {
  GenerationRequest request = Request();
  EXPECT_FALSE(BuildConstraint(request, ReasoningStart::kMayBegin)->has_value());
  request.tool_use = Use(ToolChoice::kAuto);
  EXPECT_FALSE(BuildConstraint(request, ReasoningStart::kMayBegin)->has_value());
}

TEST(ConstraintTest, RequiredCallsAndNothingElse) {
  GenerationRequest request = Request();
  request.tool_use = Use(ToolChoice::kRequired);
  const GrammarSpec spec = Build(request, ReasoningStart::kNever);
  EXPECT_TRUE(Matches(spec, kGet));
  EXPECT_TRUE(Matches(spec, absl::StrCat(ToAbsl(kGet), "\n", ToAbsl(kStop), ToAbsl(kGet))));
  EXPECT_FALSE(Matches(spec, ""));
  EXPECT_FALSE(Matches(spec, "Sure."));
  EXPECT_FALSE(
      Matches(spec, "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(
      Matches(spec, "<tool_call>\n{\"name\": \"stop\", \"arguments\": {\"n\": 4}}\n</tool_call>"));
  EXPECT_FALSE(Matches(spec, "<think>hm</think>\n\n" + std::string(kGet)));
}

TEST(ConstraintTest, OneCallIsOne) {
  GenerationRequest request = Request();
  request.tool_use = Use(ToolChoice::kRequired, /*parallel=*/false);
  const GrammarSpec spec = Build(request, ReasoningStart::kNever);
  EXPECT_TRUE(Matches(spec, kGet));
  EXPECT_FALSE(Matches(spec, absl::StrCat(ToAbsl(kGet), ToAbsl(kStop))));
}

TEST(ConstraintTest, StrictToolsBindCallsAndLeaveTextFree) {
  GenerationRequest request = Request();
  request.tool_use = Use(ToolChoice::kAuto, /*parallel=*/true, /*strict=*/true);
  const GrammarSpec spec = Build(request, ReasoningStart::kMayBegin);
  EXPECT_TRUE(Matches(spec, "Just text.\n"));
  EXPECT_TRUE(Matches(spec, "Let me see.\n\n" + std::string(kGet)));
  EXPECT_TRUE(Matches(spec, "<think>\nhm\n</think>\n\n" + std::string(kStop)));
  EXPECT_FALSE(
      Matches(spec, "<tool_call>\n{\"name\": \"stop\", \"arguments\": {\"n\": 4}}\n</tool_call>"));
}

TEST(ConstraintTest, ReasoningComesBeforeTheAnswer) {
  GenerationRequest request = Request();
  request.grammar = GrammarSpec{GrammarKind::kJsonSchema, R"({"type":"integer"})"};
  const GrammarSpec may = Build(request, ReasoningStart::kMayBegin);
  EXPECT_TRUE(Matches(may, "17"));
  EXPECT_TRUE(Matches(may, "<think>\nso many?\n</think>\n\n17"));
  EXPECT_FALSE(Matches(may, "<think>\nso many?\n</think>\n\nseventeen"));
  const GrammarSpec begun = Build(request, ReasoningStart::kBegun);
  EXPECT_TRUE(Matches(begun, "so many?\n</think>\n\n17"));
  EXPECT_FALSE(Matches(begun, "17"));
  const GrammarSpec never = Build(request, ReasoningStart::kNever);
  EXPECT_EQ(never.kind, GrammarKind::kJsonSchema);
  EXPECT_TRUE(Matches(never, "17"));
  EXPECT_FALSE(Matches(never, "<think></think>17"));
}

TEST(ConstraintTest, AModelThatDoesNotReasonByHabitIsNotLedIntoIt) {
  ServedModelInfo plain = Tiny();
  plain.template_traits.knows_reasoning = false;
  GenerationRequest request = Request(plain);
  request.grammar = GrammarSpec{GrammarKind::kJsonSchema, R"({"type":"integer"})"};
  EXPECT_FALSE(Matches(Build(request, ReasoningStart::kMayBegin), "<think>\n?\n</think>\n\n17"));
  EXPECT_TRUE(Matches(Build(request, ReasoningStart::kMayBegin), "17"));
  EXPECT_TRUE(Matches(Build(request, ReasoningStart::kBegun), "?\n</think>\n\n17"));
}

TEST(ConstraintTest, AnswerOrCalls) {
  GenerationRequest request = Request();
  request.tool_use = Use(ToolChoice::kAuto);
  request.grammar = GrammarSpec{GrammarKind::kRegex, "[a-c/]+\n"};
  const GrammarSpec spec = Build(request, ReasoningStart::kMayBegin);
  EXPECT_TRUE(Matches(spec, "ab/c\n"));
  EXPECT_TRUE(Matches(spec, kStop));
  EXPECT_FALSE(Matches(spec, "d\n"));
}

TEST(ConstraintTest, WhiteSpaceIsBounded) {
  GenerationRequest request = Request();
  request.grammar = GrammarSpec{GrammarKind::kJsonSchema, R"( {"type":"object"})"};
  const GrammarSpec spec = Build(request, ReasoningStart::kNever);
  EXPECT_TRUE(Matches(spec, "{\"a\": 1,\n  \"b\": []}"));
  EXPECT_FALSE(Matches(spec, "{\n\n\n\n\"a\": 1}"));
  request.grammar->source = "{}";
  EXPECT_TRUE(Matches(Build(request, ReasoningStart::kNever), "{\"a\": 1}"));
}

TEST(ConstraintTest, TagsThatAreNoTokensAreSpelled) {
  GenerationRequest request = Request(WithoutTags());
  request.tool_use = Use(ToolChoice::kRequired, /*parallel=*/false);
  const GrammarSpec spec = Build(request, ReasoningStart::kMayBegin);
  EXPECT_NE(spec.source.find("\"<tool_call>\""), std::string::npos) << spec.source;
  EXPECT_NE(spec.source.find("suffix=\"</think>\""), std::string::npos) << spec.source;
}

TEST(ConstraintTest, RefusesWhatCannotBeEnforced) {
  GenerationRequest request = Request();
  request.tool_use = Use(ToolChoice::kRequired);
  request.grammar = GrammarSpec{GrammarKind::kLark, "start: \"a\""};
  EXPECT_EQ(FailureParam(BuildConstraint(request, ReasoningStart::kNever).status()), "grammar");
  ServedModelInfo plain;
  request = Request(plain);
  request.tool_use = Use(ToolChoice::kRequired);
  EXPECT_EQ(FailureParam(BuildConstraint(request, ReasoningStart::kNever).status()), "tool_choice");
  request = Request();
  request.tool_use = Use(ToolChoice::kRequired);
  request.tool_use.tools[0].parameters_json = R"({"a":")" + std::string(300 * 1024, 'x') + "\"}";
  EXPECT_EQ(FailureParam(BuildConstraint(request, ReasoningStart::kNever).status()), "tools");
}

TEST(ConstraintTest, FindsWhereReasoningStarts) {
  EXPECT_EQ(FindReasoningStart(Tiny(), "<|im_start|>assistant\n"), ReasoningStart::kMayBegin);
  EXPECT_EQ(FindReasoningStart(Tiny(), "assistant\n<think>\n"), ReasoningStart::kBegun);
  EXPECT_EQ(FindReasoningStart(Tiny(), "<think>\n\n</think>\n\n"), ReasoningStart::kNever);
  EXPECT_EQ(FindReasoningStart(ServedModelInfo(), "<think>"), ReasoningStart::kNever);
}

}  // namespace
}  // namespace fathom::master
