#include "master/serving/choice_text.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

std::shared_ptr<const text::Tokenizer> TinyTokenizer() {
  const char* root = std::getenv("FATHOM_SOURCE_DIR");
  auto tokenizer =
      text::Tokenizer::FromDirectory(absl::StrCat(root == nullptr ? "." : root, "/models/tiny"));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

// Everything in upper case is reasoning; holds the last character back.
class UpperCaseReasoning final : public ReasoningParser {
 public:
  ReasoningSplit Push(std::string text) override {
    held_ += text;
    const char last = held_.back();
    held_.pop_back();
    ReasoningSplit out = Split(std::exchange(held_, std::string(1, last)));
    return out;
  }
  ReasoningSplit Flush() override { return Split(std::exchange(held_, {})); }
  bool reasoning() const override { return false; }

 private:
  static ReasoningSplit Split(const std::string& text) {
    ReasoningSplit out;
    for (const char c : text) (c >= 'A' && c <= 'Z' ? out.reasoning : out.content) += c;
    return out;
  }
  std::string held_;
};

// A digit is a call.
class DigitTools final : public ToolParser {
 public:
  ToolSplit Push(std::string content) override {
    ToolSplit out;
    for (const char c : content) {
      if (c >= '0' && c <= '9') {
        out.calls.push_back({.index = next_++, .name = std::string(1, c)});
      } else {
        out.content += c;
      }
    }
    return out;
  }
  ToolSplit Flush() override { return {.content = "."}; }

 private:
  int32_t next_ = 0;
};

TEST(ChoiceTextTest, ParsersSplitWhatTheDecoderGives) {
  const auto tokenizer = TinyTokenizer();
  OutputParsers parsers{.reasoning = std::make_unique<UpperCaseReasoning>(),
                        .tools = std::make_unique<DigitTools>()};
  ChoiceText text(tokenizer, {"END"}, 0, std::move(parsers));
  const auto ids = tokenizer->Encode("abCD7efEND later");
  ASSERT_TRUE(ids.ok());
  GenerationDelta delta;
  for (const TokenId id : *ids) {
    if (text.stopped()) break;
    ASSERT_TRUE(text.Push(id, delta).ok());
  }
  EXPECT_TRUE(text.stopped());
  ASSERT_TRUE(text.Finish(delta).ok());
  EXPECT_EQ(delta.text, "abef.");
  EXPECT_EQ(delta.reasoning, "CD");
  ASSERT_EQ(delta.tool_calls.size(), 1u);
  EXPECT_EQ(delta.tool_calls[0].name, "7");
}

TEST(ChoiceTextTest, StopsCountFromMinTokensOn) {
  const auto tokenizer = TinyTokenizer();
  const auto ids = tokenizer->Encode("a a a a a a");
  ASSERT_TRUE(ids.ok());
  ChoiceText text(tokenizer, {"a"}, /*min_tokens=*/3);
  GenerationDelta delta;
  int used = 0;
  for (const TokenId id : *ids) {
    if (text.stopped()) break;
    ASSERT_TRUE(text.Push(id, delta).ok());
    ++used;
  }
  EXPECT_EQ(used, 3);
}

TEST(ChoiceTextTest, AnUnfinishedCharacterComesOutAtTheEnd) {
  const auto tokenizer = TinyTokenizer();
  const auto ids = tokenizer->Encode("ok 🙂");
  ASSERT_TRUE(ids.ok());
  ChoiceText text(tokenizer, {}, 0);
  GenerationDelta delta;
  for (size_t i = 0; i + 1 < ids->size(); ++i) ASSERT_TRUE(text.Push((*ids)[i], delta).ok());
  const std::string before = delta.text;
  ASSERT_TRUE(text.Finish(delta).ok());
  EXPECT_TRUE(delta.text.starts_with("ok"));
  EXPECT_GE(delta.text.size(), before.size());
}

}  // namespace
}  // namespace fathom::master
