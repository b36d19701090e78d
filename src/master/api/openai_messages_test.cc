#include "master/api/openai_messages.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

std::string Rewrite(std::string_view messages, TemplateTraits traits = {}) {
  ServedModelInfo model;
  model.template_traits = traits;
  const auto rewritten = RewriteMessages(messages, model);
  EXPECT_TRUE(rewritten.ok()) << rewritten.status();
  return rewritten.value_or("");
}

TEST(RewriteMessagesTest, PlainMessagesKeepTheirBytes) {
  constexpr std::string_view kPlain =
      R"([ {"zz":1.10,"role":"user","content":"h\u00e9","a":1e2}, {"role":"assistant"} ])";
  EXPECT_EQ(Rewrite(kPlain), kPlain);
}

TEST(RewriteMessagesTest, TextPartsBecomeOneText) {
  EXPECT_EQ(Rewrite(R"([{"n":1.10,"role":"user","content":[{"type":"text","text":"a"},)"
                    R"({"type":"text","text":"b\n"}]},{"role":"user","content":"x" }])"),
            R"([{"n":1.10,"role":"user","content":"a\nb\n"},{"role":"user","content":"x" }])");
}

TEST(RewriteMessagesTest, TheDeveloperIsTheSystemUnlessTheTemplateKnowsBetter) {
  constexpr std::string_view kDeveloper = R"([{"role":"developer","content":"x"}])";
  EXPECT_EQ(Rewrite(kDeveloper), R"([{"role":"system","content":"x"}])");
  EXPECT_EQ(Rewrite(kDeveloper, {.knows_developer = true}), kDeveloper);
}

TEST(RewriteMessagesTest, ArgumentsBecomeObjects) {
  const std::string calls =
      R"([{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",)"
      R"("function":{"name":"f","arguments":"{\"b\": 1.50, \"a\": \"\\u00e9\"}"},"x":1.0}]}])";
  EXPECT_EQ(Rewrite(calls),
            R"([{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",)"
            R"("function":{"name":"f","arguments":{"b": 1.50, "a": "\u00e9"}},"x":1.0}]}])");
  EXPECT_EQ(Rewrite(calls, {.arguments_as_text = true}), calls);
}

TEST(RewriteMessagesTest, ArgumentsThatAreNoObjectStay) {
  for (const std::string arguments : {R"("not json")", R"("[1]")", R"({"a":1})", "null", "5"}) {
    const std::string calls = absl::StrCat(
        R"([{"role":"assistant","tool_calls":[{"function":{"arguments":)", arguments, R"(}},7]}])");
    EXPECT_EQ(Rewrite(calls), calls);
  }
}

TEST(RewriteMessagesTest, OfMembersOfOneNameTheLastCounts) {
  constexpr std::string_view kCall = R"([{"function":{"name":"f","arguments":"{}"}}])";
  constexpr std::string_view kRead = R"([{"function":{"name":"f","arguments":{}}}])";
  for (const std::string first : {"[]", "null", "5", "[1,2,3]"}) {
    EXPECT_EQ(Rewrite(absl::StrCat(R"([{"tool_calls":)", first, R"(,"role":"assistant",)",
                                   R"("tool_calls":)", ToAbsl(kCall), "}]")),
              absl::StrCat(R"([{"role":"assistant","tool_calls":)", ToAbsl(kRead), "}]"));
  }
  EXPECT_EQ(Rewrite(R"([{"role":"user","content":"x","content":[{"type":"text","text":"y"}]}])"),
            R"([{"role":"user","content":"y"}])");
}

TEST(RewriteMessagesTest, KeysSpelledWithEscapesAreUnderstood) {
  EXPECT_EQ(Rewrite(R"([{"\u0072ole":"developer","content":"x"}])"),
            R"([{"role":"system","content":"x"}])");
}

TEST(RewriteMessagesTest, ErrorsNameTheMessage) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"[", "no JSON array"},
      {"{}", "no JSON array"},
      {"[]", "1 to 4096"},
      {"[5]", "messages[0] must be an object"},
      {R"([{"role":"user","content":"a"},{"content":"x"}])", "messages[1].role"},
      {R"([{"role":"","content":"x"}])", "messages[0].role"},
      {R"([{"role":"user"}])", "messages[0].content is missing"},
      {R"([{"role":"user","content":5}])", "messages[0].content must be"},
      {R"([{"role":"user","content":[{"type":"image_url","image_url":{}}]}])", "only parts"},
      {R"([{"role":"user","content":["a"]}])", "only parts"},
  };
  for (const auto& [messages, words] : bad) {
    const absl::Status status = RewriteMessages(messages, ServedModelInfo()).status();
    EXPECT_EQ(FailureParam(status), "messages") << messages;
    EXPECT_NE(Message(status).find(words), std::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace fathom::master
