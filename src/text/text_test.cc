#include "text/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace fathom::text {
namespace {

using ::testing::HasSubstr;

std::string TinyDirectory() {
  return std::string(std::getenv("FATHOM_SOURCE_DIR")) + "/models/tiny";
}

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

std::shared_ptr<const Tokenizer> Tiny() {
  auto tokenizer = Tokenizer::FromDirectory(TinyDirectory());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::vector<TokenId> Ids(const Tokenizer& tokenizer, std::string_view text) {
  auto ids = tokenizer.Encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return *std::move(ids);
}

constexpr char kMixedText[] =
    "Hello, wörld! 你好 👩‍👩‍👧 e\u0301 {\"a\": [1, 2]}\n\tend";

TEST(TokenizerTest, EncodesAndDecodesEveryCharacter) {
  const auto tokenizer = Tiny();
  auto ids = tokenizer->Encode(kMixedText);
  ASSERT_TRUE(ids.ok()) << ids.status();
  auto text = tokenizer->Decode(*ids, false);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, kMixedText);
}

TEST(TokenizerTest, TokenBytesJoinToTheText) {
  const auto tokenizer = Tiny();
  std::string bytes;
  for (TokenId id : Ids(*tokenizer, kMixedText)) bytes += tokenizer->TokenBytes(id);
  EXPECT_EQ(bytes, kMixedText);
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TokenBytes(1 << 30), "");
}

TEST(TokenizerTest, SpecialTokensInTextAreParsedOnlyIfAsked) {
  const auto tokenizer = Tiny();
  const auto end = tokenizer->TokenToId("<|im_end|>");
  ASSERT_TRUE(end.has_value());
  EXPECT_TRUE(tokenizer->IsSpecial(*end));
  EXPECT_EQ(Ids(*tokenizer, "<|im_end|>"), std::vector<TokenId>{*end});
  const auto plain = *tokenizer->Encode("<|im_end|>", {.parse_special = false});
  EXPECT_GT(plain.size(), 1u);
  EXPECT_EQ(*tokenizer->Decode(plain, true), "<|im_end|>");
}

TEST(TokenizerTest, VocabularyNamesMatchIds) {
  const auto tokenizer = Tiny();
  EXPECT_EQ(tokenizer->vocab_size(), 3202);
  for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) {
    const auto token = tokenizer->IdToToken(id);
    ASSERT_TRUE(token.has_value()) << id;
    EXPECT_EQ(tokenizer->TokenToId(*token), id);
  }
  EXPECT_FALSE(tokenizer->IdToToken(tokenizer->vocab_size()).has_value());
  EXPECT_FALSE(tokenizer->TokenToId("no such token").has_value());
}

TEST(TokenizerTest, BatchIsTheSameAsOneByOne) {
  const auto tokenizer = Tiny();
  const std::vector<std::string> texts = {"", "one", kMixedText};
  const auto batch = tokenizer->EncodeBatch(texts);
  ASSERT_TRUE(batch.ok());
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ((*batch)[i], Ids(*tokenizer, texts[i]));
}

TEST(TokenizerTest, BadInputIsAStatus) {
  const auto tokenizer = Tiny();
  EXPECT_EQ(tokenizer->Encode("\xff\xfe").status().code(), absl::StatusCode::kInvalidArgument);
  const std::vector<TokenId> negative = {-1};
  EXPECT_EQ(tokenizer->Decode(negative, false).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Tokenizer::FromJson("{}").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Tokenizer::FromDirectory("/nowhere").status().code(), absl::StatusCode::kNotFound);
}

TEST(TokenizerTest, DigestIsSha256OfTheFile) {
  EXPECT_EQ(Tiny()->digest().size(), 64u);
  EXPECT_EQ(Tiny()->digest(), Tiny()->digest());
}

TEST(StreamDecoderTest, NeverEmitsHalfACharacterAndJoinsToDecode) {
  const auto tokenizer = Tiny();
  StreamDecoder decoder(tokenizer, false);
  std::string joined;
  for (TokenId id : Ids(*tokenizer, kMixedText)) {
    auto text = decoder.Push(id);
    ASSERT_TRUE(text.ok());
    EXPECT_EQ(text->find("\uFFFD"), std::string::npos);
    joined += *text;
  }
  joined += *decoder.Flush();
  EXPECT_EQ(joined, kMixedText);
}

TEST(StreamDecoderTest, UnfinishedCharacterIsReplacedAtTheEnd) {
  const auto tokenizer = Tiny();
  auto ids = Ids(*tokenizer, "語");
  ASSERT_GT(ids.size(), 1u);
  ids.pop_back();
  StreamDecoder decoder(tokenizer, false);
  for (TokenId id : ids) EXPECT_EQ(*decoder.Push(id), "");
  EXPECT_EQ(*decoder.Flush(), *tokenizer->Decode(ids, false));
}

TEST(ChatTemplateTest, RendersTheTinyModelsPrompt) {
  const auto chat_template = ChatTemplate::FromDirectory(TinyDirectory());
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  const auto text =
      (*chat_template)
          ->Render({
              .messages_json = R"([{"role": "user", "content": "Hi"}])",
              .tools_json = R"([{"type": "function", "function": {"name": "f", "x": [1.0, "é"]}}])",
          });
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text,
            "<|im_start|>system\n# Tools\n"
            "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"x\": [1.0, \"é\"]}}\n"
            "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, RaisedErrorsKeepTheTemplatesWords) {
  const auto chat_template =
      ChatTemplate::FromSource("{{ raise_exception('roles must alternate') }}", "");
  ASSERT_TRUE(chat_template.ok());
  const auto text = (*chat_template)->Render({.messages_json = "[]"});
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MessageOf(text.status()), "roles must alternate");
}

TEST(ChatTemplateTest, EndlessTemplatesRunOutOfFuel) {
  const auto chat_template = ChatTemplate::FromSource(
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "");
  ASSERT_TRUE(chat_template.ok());
  EXPECT_EQ((*chat_template)->Render({.messages_json = "[]"}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ChatTemplateTest, DirectoryWithoutTemplateIsNotFound) {
  EXPECT_EQ(ChatTemplate::FromDirectory("/nowhere").status().code(), absl::StatusCode::kNotFound);
}

class GrammarTest : public ::testing::Test {
 protected:
  static constexpr int32_t kVocabSize = 3264;  // larger than the tokenizer's

  GrammarTest() : tokenizer_(Tiny()), end_(*tokenizer_->TokenToId("<|im_end|>")) {
    const std::vector<TokenId> ends = {end_};
    auto compiler = GrammarCompiler::Create(tokenizer_, kVocabSize, ends);
    EXPECT_TRUE(compiler.ok()) << compiler.status();
    compiler_ = *std::move(compiler);
    mask_.resize(compiler_->mask_words());
  }

  bool Allows(GrammarMatcher& matcher, TokenId id) {
    EXPECT_TRUE(matcher.FillMask(mask_).ok());
    return (mask_[id / 32] >> (id % 32)) & 1;
  }

  void AcceptText(GrammarMatcher& matcher, std::string_view text) {
    for (TokenId id : Ids(*tokenizer_, text)) {
      EXPECT_TRUE(Allows(matcher, id)) << tokenizer_->TokenBytes(id);
      EXPECT_TRUE(matcher.Accept(id).ok());
    }
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  TokenId end_;
  std::shared_ptr<const GrammarCompiler> compiler_;
  std::vector<uint32_t> mask_;
};

TEST_F(GrammarTest, JsonSchemaTakesItsDocumentsOnly) {
  auto matcher = compiler_->Compile(
      GrammarKind::kJsonSchema,
      R"({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
          "additionalProperties": false})");
  ASSERT_TRUE(matcher.ok()) << matcher.status();
  EXPECT_FALSE(Allows(*matcher, end_));
  const TokenId wrong = (Ids(*tokenizer_, "x"))[0];
  EXPECT_FALSE(Allows(*matcher, wrong));
  EXPECT_EQ(matcher->Accept(wrong).code(), absl::StatusCode::kFailedPrecondition);
  AcceptText(*matcher, "{\"n\": 12}");
  EXPECT_TRUE(matcher->IsFinished());
  EXPECT_TRUE(Allows(*matcher, end_));
  EXPECT_TRUE(matcher->Accept(end_).ok());
}

TEST_F(GrammarTest, IdsBeyondTheTokenizerAreNeverAllowed) {
  auto matcher = compiler_->Compile(GrammarKind::kRegex, "(.|\\n)*");
  ASSERT_TRUE(matcher.ok()) << matcher.status();
  for (TokenId id = tokenizer_->vocab_size(); id < kVocabSize; ++id) {
    EXPECT_FALSE(Allows(*matcher, id));
    EXPECT_EQ(matcher->Accept(id).code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(matcher->Accept(-1).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(matcher->Accept(1 << 30).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(GrammarTest, RollbackAndCloneRestoreTheState) {
  auto matcher = compiler_->Compile(GrammarKind::kRegex, "ab(c|d)e");
  ASSERT_TRUE(matcher.ok()) << matcher.status();
  const TokenId a = (Ids(*tokenizer_, "a"))[0];
  const TokenId b = (Ids(*tokenizer_, "b"))[0];
  const TokenId c = (Ids(*tokenizer_, "c"))[0];
  const TokenId e = (Ids(*tokenizer_, "e"))[0];
  ASSERT_TRUE(matcher->Accept(a).ok());
  auto clone = matcher->Clone();
  ASSERT_TRUE(clone.ok());
  for (TokenId id : {b, c, e, end_}) ASSERT_TRUE(matcher->Accept(id).ok());
  EXPECT_TRUE(Allows(*clone, b));
  ASSERT_TRUE(matcher->Rollback(4).ok());
  EXPECT_FALSE(matcher->IsFinished());
  EXPECT_TRUE(Allows(*matcher, b));
  EXPECT_FALSE(Allows(*matcher, c));
  EXPECT_FALSE(matcher->Rollback(2).ok());
}

TEST_F(GrammarTest, LarkCompiles) {
  auto matcher = compiler_->Compile(GrammarKind::kLark, "start: \"yes\" | \"no\"");
  ASSERT_TRUE(matcher.ok()) << matcher.status();
  AcceptText(*matcher, "no");
  EXPECT_TRUE(matcher->IsFinished());
}

TEST_F(GrammarTest, BadGrammarsAndLimitsAreStatuses) {
  for (auto [kind, source] : {std::pair{GrammarKind::kJsonSchema, "{"},
                              {GrammarKind::kJsonSchema, R"({"type": "nonsense"})"},
                              {GrammarKind::kRegex, "("},
                              {GrammarKind::kLark, "start: missing"}}) {
    const auto matcher = compiler_->Compile(kind, source);
    EXPECT_EQ(matcher.status().code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_THAT(MessageOf(matcher.status()), HasSubstr("grammar: "));
  }
  EXPECT_EQ(compiler_->Compile(GrammarKind::kRegex, "abc", {.source_bytes_max = 2}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace fathom::text
