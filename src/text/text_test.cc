#include "text/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
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

// A model directory with the given files.
class ModelDirectory {
 public:
  explicit ModelDirectory(const std::vector<std::pair<std::string, std::string>>& files) {
    for (const auto& [name, text] : files) {
      const std::filesystem::path path = root_ / name;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path) << text;
    }
  }
  ~ModelDirectory() { std::filesystem::remove_all(root_); }

  std::string path() const { return root_.string(); }

 private:
  std::filesystem::path root_ =
      std::filesystem::path(::testing::TempDir()) / ("model_" + std::to_string(::getpid()));
};

std::string Render(const std::string& directory, std::string_view tools) {
  const auto chat_template = ChatTemplate::FromDirectory(directory);
  if (!chat_template.ok()) return MessageOf(chat_template.status());
  const auto text = (*chat_template)->Render({.messages_json = "[]", .tools_json = tools});
  return text.ok() ? *text : MessageOf(text.status());
}

TEST(ChatTemplateTest, ToolsChooseTheirOwnTemplateWhereThereIsOne) {
  const ModelDirectory model({{"tokenizer_config.json",
                               R"({"bos_token": {"content": "<s>"}, "chat_template": [
                                   {"name": "default", "template": "{{ bos_token }} plain"},
                                   {"name": "tool_use", "template": "{{ eos_token }} tools"}]})"},
                              {"special_tokens_map.json", R"({"eos_token": "</s>"})"}});
  EXPECT_EQ(Render(model.path(), ""), "<s> plain");
  EXPECT_EQ(Render(model.path(), "[{}]"), "</s> tools");
}

TEST(ChatTemplateTest, TemplateFilesComeBeforeTheConfiguration) {
  const ModelDirectory model(
      {{"tokenizer_config.json", R"({"chat_template": "from the configuration"})"},
       {"chat_template.jinja", "from the file\r\n"},
       {"additional_chat_templates/tool_use.jinja", "tools from a file"}});
  EXPECT_EQ(Render(model.path(), ""), "from the file");
  EXPECT_EQ(Render(model.path(), "[]"), "tools from a file");
}

TEST(ChatTemplateTest, BrokenModelFilesAreNamed) {
  const ModelDirectory model({std::pair{std::string("tokenizer_config.json"), std::string("{")}});
  EXPECT_THAT(Render(model.path(), ""), HasSubstr("tokenizer_config.json"));
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

TEST_F(GrammarTest, SpecialTokensAreReachedByNameOnly) {
  const TokenId call = *tokenizer_->TokenToId("<tool_call>");
  auto by_name = compiler_->Compile(GrammarKind::kLark, "start: <tool_call> \"x\"");
  ASSERT_TRUE(by_name.ok()) << by_name.status();
  EXPECT_TRUE(Allows(*by_name, call));
  auto by_text = compiler_->Compile(GrammarKind::kRegex, "<tool_call>x");
  ASSERT_TRUE(by_text.ok()) << by_text.status();
  EXPECT_FALSE(Allows(*by_text, call));
  EXPECT_TRUE(Allows(*by_text, Ids(*tokenizer_, "<")[0]));
}

TEST_F(GrammarTest, EveryEndOfSequenceEndsAGrammar) {
  const std::vector<TokenId> ends = {end_, *tokenizer_->TokenToId("<|endoftext|>")};
  const auto compiler = GrammarCompiler::Create(tokenizer_, kVocabSize, ends);
  ASSERT_TRUE(compiler.ok()) << compiler.status();
  for (TokenId end : ends) {
    auto matcher = (*compiler)->Compile(GrammarKind::kRegex, "a*");
    ASSERT_TRUE(matcher.ok()) << matcher.status();
    for (TokenId id : ends) EXPECT_TRUE(Allows(*matcher, id));
    ASSERT_TRUE(matcher->Accept(end).ok());
    EXPECT_TRUE(matcher->IsFinished());
    ASSERT_TRUE(matcher->Rollback(1).ok());
    EXPECT_TRUE(Allows(*matcher, Ids(*tokenizer_, "a")[0]));
  }
}

TEST_F(GrammarTest, ModelsSmallerThanTheTokenizerAreRefused) {
  const std::vector<TokenId> ends = {end_};
  EXPECT_FALSE(GrammarCompiler::Create(tokenizer_, 100, ends).ok());
  const std::vector<TokenId> beyond = {kVocabSize};
  EXPECT_FALSE(GrammarCompiler::Create(tokenizer_, kVocabSize, beyond).ok());
}

TEST_F(GrammarTest, SharedObjectsWorkFromManyThreads) {
  const auto chat_template = ChatTemplate::FromDirectory(TinyDirectory());
  ASSERT_TRUE(chat_template.ok());
  const auto expected = Ids(*tokenizer_, kMixedText);
  auto original = compiler_->Compile(GrammarKind::kRegex, "[a-z ]*");
  ASSERT_TRUE(original.ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, matcher = std::make_shared<GrammarMatcher>(*original->Clone())] {
      std::vector<uint32_t> mask(compiler_->mask_words());
      for (int round = 0; round < 30; ++round) {
        EXPECT_EQ(Ids(*tokenizer_, kMixedText), expected);
        EXPECT_TRUE((*chat_template)
                        ->Render({.messages_json = R"([{"role": "user", "content": "x"}])"})
                        .ok());
        EXPECT_TRUE(compiler_->Compile(GrammarKind::kRegex, "a|b").ok());
        EXPECT_TRUE(matcher->FillMask(mask).ok());
        EXPECT_TRUE(matcher->Accept(Ids(*tokenizer_, "a")[0]).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
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
