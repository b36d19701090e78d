#include "master/api/openai_tools.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

constexpr std::string_view kF =
    R"({"type":"function","function":{"name":"f","parameters":{"b":0.10,"a":2},"strict":true}})";
constexpr std::string_view kG = R"({"type":"function","function":{"name":"g"}})";

std::string Both() { return absl::StrCat("[", ToAbsl(kF), ", ", ToAbsl(kG), "]"); }

ChatTools Read(std::string_view rest) {
  const std::string body = absl::StrCat("{\"tools\":", Both(), ToAbsl(rest), "}");
  const auto object = ParseJsonObject(body);
  EXPECT_TRUE(object.ok());
  Fields fields(*object);
  ChatTools tools = ReadTools(fields, body);
  EXPECT_TRUE(fields.ok()) << fields.status();
  return tools;
}

TEST(ReadToolsTest, AutoShowsAllAndMayCallAll) {
  for (const std::string_view rest : {"", R"(,"tool_choice":"auto")", R"(,"tool_choice":null)"}) {
    const ChatTools tools = Read(rest);
    EXPECT_EQ(tools.shown_json, Both());
    EXPECT_EQ(tools.use.choice, ToolChoice::kAuto);
    EXPECT_TRUE(tools.use.parallel);
    ASSERT_EQ(tools.use.tools.size(), 2u);
    EXPECT_EQ(tools.use.tools[0].name, "f");
    EXPECT_EQ(tools.use.tools[0].parameters_json, R"({"b":0.10,"a":2})");
    EXPECT_TRUE(tools.use.tools[0].strict);
    EXPECT_EQ(tools.use.tools[1].parameters_json, "");
    EXPECT_FALSE(tools.use.tools[1].strict);
  }
  EXPECT_FALSE(Read(R"(,"parallel_tool_calls":false)").use.parallel);
}

TEST(ReadToolsTest, NoneHidesThem) {
  const ChatTools tools = Read(R"(,"tool_choice":"none")");
  EXPECT_EQ(tools.shown_json, "");
  EXPECT_EQ(tools.use.choice, ToolChoice::kNone);
}

TEST(ReadToolsTest, RequiredMustCallOneOfThem) {
  const ChatTools tools = Read(R"(,"tool_choice":"required")");
  EXPECT_EQ(tools.shown_json, Both());
  EXPECT_EQ(tools.use.choice, ToolChoice::kRequired);
  EXPECT_EQ(tools.use.tools.size(), 2u);
}

TEST(ReadToolsTest, ANamedOneIsShownAloneAndCalledOnce) {
  const ChatTools tools = Read(absl::StrCat(R"(,"tool_choice":)", ToAbsl(kG)));
  EXPECT_EQ(tools.shown_json, absl::StrCat("[", ToAbsl(kG), "]"));
  EXPECT_EQ(tools.use.choice, ToolChoice::kRequired);
  EXPECT_FALSE(tools.use.parallel);
  ASSERT_EQ(tools.use.tools.size(), 1u);
  EXPECT_EQ(tools.use.tools[0].name, "g");
}

TEST(ReadToolsTest, FromParts) {
  const auto named = ReadTools(Both(), "g", true);
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ(named->shown_json, absl::StrCat("[", ToAbsl(kG), "]"));
  const auto none = ReadTools("", "", true);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->use.choice, ToolChoice::kNone);
  EXPECT_EQ(FailureParam(ReadTools("{}", "", true).status()), "tools");
  EXPECT_EQ(FailureParam(ReadTools("", "required", true).status()), "tool_choice");
}

TEST(ReadToolsTest, ErrorsNameTheField) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {R"("tools":5)", "tools"},
      {R"("tools":[{}])", "tools"},
      {R"("tools":[{"type":"retrieval","function":{"name":"f"}}])", "tools"},
      {R"("tools":[{"type":"function","function":{"name":""}}])", "tools"},
      {R"("tools":[{"type":"function","function":{"name":"f","strict":1}}])", "tools"},
      {R"("tools":[{"type":"function","function":{"name":"f","parameters":[]}}])", "tools"},
      {R"("tool_choice":"sometimes")", "tool_choice"},
      {R"("tool_choice":{"type":"function"})", "tool_choice"},
      {R"("tool_choice":"required")", "tool_choice"},
      {R"("tool_choice":{"type":"function","function":{"name":"x"}})", "tool_choice"},
      {R"("parallel_tool_calls":"yes")", "parallel_tool_calls"},
  };
  for (const auto& [members, param] : bad) {
    const std::string body = absl::StrCat("{", members, "}");
    const auto object = ParseJsonObject(body);
    ASSERT_TRUE(object.ok()) << body;
    Fields fields(*object);
    ReadTools(fields, body);
    EXPECT_EQ(FailureParam(fields.status()), param) << body << fields.status();
  }
}

}  // namespace
}  // namespace fathom::master
