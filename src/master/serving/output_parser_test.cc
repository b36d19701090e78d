#include "master/serving/output_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "master/serving/call_reader.h"
#include "master/serving/hermes_parser.h"
#include "master/serving/think_parser.h"

namespace fathom::master {
namespace {

// Cut into pieces of `size` bytes: the result must not depend on where the cuts are.
std::vector<std::string> Pieces(std::string_view text, size_t size) {
  std::vector<std::string> pieces;
  for (size_t i = 0; i < text.size(); i += size) pieces.emplace_back(text.substr(i, size));
  return pieces;
}

struct Thought {
  std::string reasoning;
  std::string content;
  bool operator==(const Thought&) const = default;
};

Thought Think(std::string_view text, size_t size, bool thinking = false) {
  ThinkParser parser(thinking);
  Thought out;
  const auto add = [&out](const ReasoningSplit& split) {
    out.reasoning += split.reasoning;
    out.content += split.content;
  };
  for (const std::string& piece : Pieces(text, size)) add(parser.Push(piece));
  add(parser.Flush());
  return out;
}

class ThinkParserTest : public testing::TestWithParam<size_t> {};

TEST_P(ThinkParserTest, SplitsTheBeginningOff) {
  EXPECT_EQ(Think("<think>\n1 + 2 = 3\n</think>\n\nThe sum is 3.", GetParam()),
            (Thought{"1 + 2 = 3", "The sum is 3."}));
  EXPECT_EQ(Think("\n <think>a b\n\n c</think>d", GetParam()), (Thought{"a b\n\n c", "d"}));
  EXPECT_EQ(Think("<think></think>\n", GetParam()), (Thought{"", ""}));
}

TEST_P(ThinkParserTest, AnswersWithoutThoughtsStayAsTheyAre) {
  for (const std::string text :
       {"", "hello", " \n hello ", "<thin", "<thinking>", "a <think>b</think>", "</think>"}) {
    EXPECT_EQ(Think(text, GetParam()), (Thought{"", text}));
  }
}

TEST_P(ThinkParserTest, BeginsInThePrompt) {
  EXPECT_EQ(Think("\nx </thin </think>\ny<think>z</think>", GetParam(), true),
            (Thought{"x </thin", "y<think>z</think>"}));
}

TEST_P(ThinkParserTest, AnEarlyEndLeavesReasoning) {
  EXPECT_EQ(Think("<think>\nstill at it \n", GetParam()), (Thought{"still at it", ""}));
  EXPECT_EQ(Think("<think>half </thi", GetParam()), (Thought{"half </thi", ""}));
}

INSTANTIATE_TEST_SUITE_P(Cuts, ThinkParserTest, testing::Values(1, 2, 3, 7, 1000));

TEST(ThinkParserTest, KnowsWhetherItReasons) {
  ThinkParser parser(false);
  EXPECT_FALSE(parser.reasoning());
  parser.Push("<think>");
  EXPECT_TRUE(parser.reasoning());
  parser.Push("hm");
  EXPECT_TRUE(parser.reasoning());
  parser.Push("</think>");
  EXPECT_FALSE(parser.reasoning());
  EXPECT_TRUE(ThinkParser(true).reasoning());
}

struct Call {
  std::string id;
  std::string name;
  std::string arguments;
  bool operator==(const Call&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Call& call) {
  return out << call.id << ' ' << call.name << ' ' << call.arguments;
}

struct Calls {
  std::string content;
  std::vector<Call> calls;
};

Calls Read(std::string_view text, size_t size) {
  HermesParser parser([](int32_t index) { return absl::StrCat("id", index); });
  Calls out;
  const auto add = [&out](const ToolSplit& split) {
    out.content += split.content;
    for (const ToolCallDelta& delta : split.calls) {
      if (!delta.name.empty()) {
        EXPECT_EQ(static_cast<size_t>(delta.index), out.calls.size());
        out.calls.push_back({delta.id, delta.name, ""});
      }
      EXPECT_EQ(static_cast<size_t>(delta.index) + 1, out.calls.size());
      out.calls.back().arguments += delta.arguments;
    }
  };
  for (const std::string& piece : Pieces(text, size)) add(parser.Push(piece));
  add(parser.Flush());
  return out;
}

class HermesParserTest : public testing::TestWithParam<size_t> {};

TEST_P(HermesParserTest, OneCall) {
  const Calls read = Read(
      "<tool_call>\n{\"name\": \"get_price\", \"arguments\": {\"item\": \"a \\\"}\\\" b\", \"n\": "
      "[1, {}]}}\n</tool_call>",
      GetParam());
  EXPECT_EQ(read.content, "");
  EXPECT_EQ(read.calls,
            (std::vector<Call>{{"id0", "get_price", R"({"item": "a \"}\" b", "n": [1, {}]})"}}));
}

TEST_P(HermesParserTest, SeveralCallsWithTextAround) {
  const Calls read = Read(
      "Let me look. \n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n"
      "<tool_call>\n{\"arguments\": {\"x\": 1.50}, \"name\": \"g\"}\n</tool_call>\n and done ",
      GetParam());
  EXPECT_EQ(read.content, "Let me look.and done ");
  EXPECT_EQ(read.calls, (std::vector<Call>{{"id0", "f", "{}"}, {"id1", "g", R"({"x": 1.50})"}}));
}

TEST_P(HermesParserTest, OtherSpellingsOfACall) {
  EXPECT_EQ(Read(R"(<tool_call>{"name":"f"}</tool_call>)", GetParam()).calls,
            (std::vector<Call>{{"id0", "f", "{}"}}));
  EXPECT_EQ(
      Read(R"(<tool_call>{"id":[1,"}"],"name":"f\u0041","parameters":{"a":null}}</tool_call>)",
           GetParam())
          .calls,
      (std::vector<Call>{{"id0", "fA", R"({"a":null})"}}));
  EXPECT_EQ(
      Read(R"(<tool_call>{"name":"f","arguments":"{\"a\": 1}"}</tool_call>)", GetParam()).calls,
      (std::vector<Call>{{"id0", "f", R"({"a": 1})"}}));
}

TEST_P(HermesParserTest, TextWithoutCallsStaysAsItIs) {
  for (const std::string text :
       {"", " plain \n", "a <tool_cal", "</tool_call>", "<tool_call>not json</tool_call> x",
        "<tool_call>\n<function=f>\n</function>\n</tool_call>",
        R"(<tool_call>{"arguments": {"a": 1}})", R"(<tool_call>{"name": 5}</tool_call>)",
        R"(<tool_call>{"name": ,)", "<tool_call>{}"}) {
    const Calls read = Read(text, GetParam());
    EXPECT_EQ(read.content, text);
    EXPECT_TRUE(read.calls.empty());
  }
}

TEST_P(HermesParserTest, AnEarlyEndKeepsWhatWasSent) {
  const Calls read = Read("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1, ", GetParam());
  EXPECT_EQ(read.content, "");
  EXPECT_EQ(read.calls, (std::vector<Call>{{"id0", "f", "{\"a\": [1, "}}));
}

INSTANTIATE_TEST_SUITE_P(Cuts, HermesParserTest, testing::Values(1, 2, 3, 7, 1000));

TEST(HermesParserTest, StreamsTheNameThenTheArguments) {
  HermesParser parser([](int32_t) { return "id"; });
  EXPECT_TRUE(parser.Push("<tool_call>{\"name\": \"f").calls.empty());
  const ToolSplit named = parser.Push("\", \"arg");
  ASSERT_EQ(named.calls.size(), 1u);
  EXPECT_EQ(named.calls[0].name, "f");
  EXPECT_EQ(named.calls[0].arguments, "");
  const ToolSplit more = parser.Push("uments\": {\"a\"");
  ASSERT_EQ(more.calls.size(), 1u);
  EXPECT_EQ(more.calls[0].name, "");
  EXPECT_EQ(more.calls[0].id, "");
  EXPECT_EQ(more.calls[0].arguments, "{\"a\"");
}

}  // namespace
}  // namespace fathom::master
