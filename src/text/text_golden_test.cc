// What transformers made of our texts and templates (tools/goldens/make_text_goldens.py), byte for
// byte.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "text/text.h"

namespace fathom::text {
namespace {

namespace json = boost::json;

std::string SourcePath(const std::string& path) {
  return std::string(std::getenv("FATHOM_SOURCE_DIR")) + "/" + path;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(SourcePath(path), std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

json::value ReadGolden(const std::string& name) {
  return json::parse(ReadFile("tests/golden/text/" + name));
}

std::string Text(const json::value& value) {
  return std::string(value.as_string().data(), value.as_string().size());
}

std::vector<TokenId> Ids(const json::value& value) {
  return json::value_to<std::vector<int>>(value);
}

std::string Stream(const std::shared_ptr<const Tokenizer>& tokenizer,
                   const std::vector<TokenId>& ids, bool skip_special_tokens) {
  StreamDecoder decoder(tokenizer, skip_special_tokens);
  std::string text;
  for (TokenId id : ids) {
    const auto piece = decoder.Push(id);
    EXPECT_TRUE(piece.ok()) << piece.status();
    EXPECT_NO_THROW(json::serialize(json::string(*piece)));
    text += *piece;
  }
  const auto rest = decoder.Flush();
  EXPECT_TRUE(rest.ok()) << rest.status();
  return text + *rest;
}

void CheckDecoded(const std::shared_ptr<const Tokenizer>& tokenizer,
                  const std::vector<TokenId>& ids, const json::array& decoded) {
  for (const bool skip : {false, true}) {
    const std::string expected = Text(decoded[skip && decoded.size() > 1 ? 1 : 0]);
    const auto text = tokenizer->Decode(ids, skip);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, expected) << testing::PrintToString(ids);
    EXPECT_EQ(Stream(tokenizer, ids, skip), expected) << testing::PrintToString(ids);
  }
}

void CheckTokenizer(const std::shared_ptr<const Tokenizer>& tokenizer, const json::value& golden) {
  EXPECT_EQ(tokenizer->vocab_size(), golden.at("vocab_size").as_int64());
  std::vector<TokenId> special;
  for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) {
    if (tokenizer->IsSpecial(id)) special.push_back(id);
  }
  EXPECT_EQ(special, Ids(golden.at("special")));
  for (const json::value& value : golden.at("encoded").as_array()) {
    const std::string text = Text(value.at("text"));
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, Ids(value.at("ids"))) << text;
    const auto plain =
        tokenizer->Encode(text, {.add_special_tokens = false, .parse_special = false});
    ASSERT_TRUE(plain.ok()) << plain.status();
    EXPECT_EQ(*plain, Ids(value.at("plain"))) << text;
    CheckDecoded(tokenizer, *ids, value.at("decoded").as_array());
  }
  for (const json::value& value : golden.at("sequences").as_array()) {
    CheckDecoded(tokenizer, Ids(value.at("ids")), value.at("decoded").as_array());
  }
}

TEST(TextGoldenTest, TokenizersOfEveryKindMatch) {
  const json::value golden = ReadGolden("tokenizer_cases.json");
  for (const auto& [name, cases] : golden.as_object()) {
    SCOPED_TRACE(std::string(name));
    const auto tokenizer =
        Tokenizer::FromJson(ReadFile("tests/golden/text/" + std::string(name) + ".json"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    CheckTokenizer(*tokenizer, cases);
  }
}

TEST(TextGoldenTest, TinyModelMatches) {
  const json::value golden = ReadGolden("tiny_cases.json");
  const auto tokenizer = Tokenizer::FromDirectory(SourcePath("models/tiny"));
  const auto chat_template = ChatTemplate::FromDirectory(SourcePath("models/tiny"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  CheckTokenizer(*tokenizer, golden);
  for (const json::value& prompt : golden.at("prompts").as_array()) {
    const std::string messages = Text(prompt.at("messages"));
    const std::string tools = Text(prompt.at("tools"));
    const auto text = (*chat_template)->Render({.messages_json = messages, .tools_json = tools});
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, Text(prompt.at("text")));
    const auto ids = (*tokenizer)->Encode(*text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, Ids(prompt.at("ids")));
  }
}

// What a render came to, in one line: its text, or the words of raise_exception, or "" for any
// other error (whose words are each library's own).
std::string Outcome(const json::value& expected) {
  const json::value* error = expected.as_object().if_contains("error");
  return error != nullptr ? "error: " + json::serialize(*error)
                          : json::serialize(expected.at("text"));
}

std::string Outcome(const absl::StatusOr<std::string>& text, const json::value& expected) {
  if (text.ok()) return json::serialize(json::string(*text));
  std::string words(text.status().message());
  const json::value* error = expected.as_object().if_contains("error");
  // Where the reference failed in its own words, any words will do.
  if (error != nullptr && error->as_string().empty()) words.clear();
  return "error: " + json::serialize(json::string(words));
}

void CheckRender(const std::string& source, const std::string& variables,
                 const ChatTemplateInput& input, const json::value& expected) {
  const auto chat_template = ChatTemplate::FromSource(source, variables);
  const auto text = chat_template.ok() ? (*chat_template)->Render(input) : chat_template.status();
  EXPECT_EQ(Outcome(text, expected), Outcome(expected)) << source.substr(0, 300);
}

TEST(TextGoldenTest, TemplateFamiliesMatch) {
  const json::value golden = ReadGolden("template_cases.json");
  for (const json::value& family : golden.at("families").as_array()) {
    for (const json::value& value : family.at("cases").as_array()) {
      const json::value& setting = golden.at("settings").at(value.at("setting").as_string());
      SCOPED_TRACE(Text(family.at("name")) + " " + Text(value.at("messages")) + " " +
                   Text(value.at("setting")));
      const std::string messages = Text(golden.at("messages").at(value.at("messages").as_string()));
      const std::string tools = Text(setting.at("tools"));
      const std::string extra = Text(setting.at("extra"));
      CheckRender(Text(family.at("source")), Text(golden.at("tokens")),
                  {.messages_json = messages,
                   .tools_json = tools,
                   .extra_json = extra,
                   .add_generation_prompt = setting.at("prompt").as_bool(),
                   .now_unix_seconds = golden.at("now").as_int64()},
                  value);
    }
  }
}

TEST(TextGoldenTest, TemplateIdiomsMatch) {
  const json::value golden = ReadGolden("template_cases.json");
  const std::string messages = Text(golden.at("messages").at("long"));
  const std::string variables = Text(golden.at("idiom_variables"));
  for (const json::value& value : golden.at("idioms").as_array()) {
    CheckRender(Text(value.at("source")), Text(golden.at("tokens")),
                {.messages_json = messages,
                 .extra_json = variables,
                 .now_unix_seconds = golden.at("now").as_int64()},
                value);
  }
}

}  // namespace
}  // namespace fathom::text
