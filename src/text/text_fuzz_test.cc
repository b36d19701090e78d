// Nothing that comes from outside may crash, hang or leave the C ABI without a status: broken
// files, hostile templates and grammars, bytes that are no text. Seeds are fixed.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "text/text.h"

namespace fathom::text {
namespace {

using Rng = std::mt19937_64;

std::string ReadFile(const std::string& path) {
  std::ifstream file(std::string(std::getenv("FATHOM_SOURCE_DIR")) + "/" + path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

const std::vector<std::string>& TokenizerNames() {
  static const auto& names = *new std::vector<std::string>{
      "llama3_like", "qwen_like", "gpt2_like",       "llama2_like", "gemma_like",
      "unigram",     "wordpiece", "word_suffix_bpe", "word_level"};
  return names;
}

std::string TokenizerJson(const std::string& name) {
  return ReadFile("tests/golden/text/" + name + ".json");
}

std::string Repeat(std::string_view text, size_t count) {
  std::string out;
  out.reserve(text.size() * count);
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

std::string RandomBytes(Rng& rng, size_t size_max) {
  std::string bytes(rng() % (size_max + 1), '\0');
  for (char& byte : bytes) byte = static_cast<char>(rng());
  return bytes;
}

// Cuts, repeats, overwrites and moves pieces of `text`.
std::string Mutate(Rng& rng, std::string text) {
  for (uint64_t edits = 1 + rng() % 3; edits > 0 && !text.empty(); --edits) {
    const size_t at = rng() % text.size();
    const size_t size = std::min<size_t>(1 + rng() % 12, text.size() - at);
    switch (rng() % 5) {
      case 0:
        text.erase(at, size);
        break;
      case 1:
        text.insert(at, text.substr(rng() % text.size(), size));
        break;
      case 2:
        text[at] = static_cast<char>(rng());
        break;
      case 3:
        text.replace(at, size, std::to_string(static_cast<int64_t>(rng()) >> (rng() % 60)));
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

// Any outcome will do, but a failure must be a proper one.
void ExpectSound(const absl::Status& status) {
  if (status.ok()) return;
  EXPECT_FALSE(status.message().empty());
  EXPECT_LT(status.message().size(), 1u << 20);
}

TEST(TextFuzzTest, BrokenTokenizerFilesAreStatuses) {
  Rng rng(1);
  for (const std::string& name : TokenizerNames()) {
    const std::string json = TokenizerJson(name);
    for (int round = 0; round < 60; ++round) {
      const auto tokenizer = Tokenizer::FromJson(Mutate(rng, json));
      ExpectSound(tokenizer.status());
      if (!tokenizer.ok()) continue;
      const auto ids = (*tokenizer)->Encode("Hello, 你好 <|im_end|>\n");
      ExpectSound(ids.status());
      if (ids.ok()) ExpectSound((*tokenizer)->Decode(*ids, true).status());
      const std::vector<TokenId> ends = {0};
      ExpectSound(GrammarCompiler::Create(*tokenizer, (*tokenizer)->vocab_size(), ends).status());
    }
  }
  for (const std::string& json : {std::string("null"), std::string("[]"), Repeat("[", 100000),
                                  Repeat("{\"a\":", 100000), RandomBytes(rng, 10000)}) {
    EXPECT_FALSE(Tokenizer::FromJson(json).ok());
  }
}

TEST(TextFuzzTest, AnyBytesEncodeOrAreRefused) {
  Rng rng(2);
  for (const std::string& name : TokenizerNames()) {
    const auto tokenizer = Tokenizer::FromJson(TokenizerJson(name));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (int round = 0; round < 100; ++round) {
      const std::string bytes = RandomBytes(rng, 200);
      ExpectSound((*tokenizer)->Encode(bytes).status());
      ExpectSound((*tokenizer)->Encode(bytes, {.parse_special = false}).status());
      (*tokenizer)->TokenToId(bytes);
    }
    for (const std::string& text : {Repeat("a", 50000), Repeat(" ", 50000), Repeat("\n \n", 20000),
                                    Repeat("e\u0301", 20000), Repeat("<|im_end|", 5000)}) {
      ExpectSound((*tokenizer)->Encode(text).status());
    }
  }
}

// The invariant of StreamDecoder, on ids that make no sense together.
TEST(TextFuzzTest, StreamsJoinToDecodeForAnyIds) {
  Rng rng(3);
  for (const std::string& name : TokenizerNames()) {
    SCOPED_TRACE(name);
    const auto tokenizer = Tokenizer::FromJson(TokenizerJson(name));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (int round = 0; round < 300; ++round) {
      // Some ids lie beyond the vocabulary; narrow ranges make runs of bytes and specials.
      const int32_t range = 1 + rng() % ((*tokenizer)->vocab_size() + 3);
      const int32_t first = rng() % ((*tokenizer)->vocab_size() + 4 - range);
      std::vector<TokenId> ids(rng() % 40);
      for (TokenId& id : ids) id = first + rng() % range;
      const bool skip = rng() % 2 == 0;
      StreamDecoder decoder(*tokenizer, skip);
      std::string joined;
      for (TokenId id : ids) {
        const auto text = decoder.Push(id);
        ASSERT_TRUE(text.ok()) << text.status();
        joined += *text;
      }
      joined += *decoder.Flush();
      const auto whole = (*tokenizer)->Decode(ids, skip);
      ASSERT_TRUE(whole.ok()) << whole.status();
      EXPECT_EQ(joined, *whole) << testing::PrintToString(ids);
    }
    StreamDecoder decoder(*tokenizer, false);
    EXPECT_FALSE(decoder.Push(-1).ok());
    EXPECT_TRUE(decoder.Push(1 << 30).ok());
  }
}

constexpr char kTemplate[] =
    "{%- macro m(x, y=[1]) -%}{{ x ~ y }}{%- endmacro -%}{% set ns = namespace(a=0) %}"
    "{% for message in messages if message.role != 'x' %}{% set ns.a = ns.a + loop.index %}"
    "{% if message.content is string %}{{ message.content.split(' ')[0] | trim }}{% continue %}"
    "{% else %}{{ message.content | tojson(indent=2) }}{% endif %}{{ m(message['role'][1:]) }}"
    "{% generation %}{{ '%5s' | format(ns.a) }}{% endgeneration %}{% endfor %}"
    "{% raw %}{{{% endraw %}{{ messages | map(attribute='role') | join(', ') }}"
    "{{ strftime_now('%Y') }}{{ raise_exception('stop') if ns.a > 9 }}";

TEST(TextFuzzTest, BrokenTemplatesAreStatuses) {
  Rng rng(4);
  const std::string messages = R"([{"role": "user", "content": "Hi é there"},
      {"role": "y", "content": [{"a": 1.5}, null, true]}])";
  for (int round = 0; round < 3000; ++round) {
    const auto chat_template = ChatTemplate::FromSource(Mutate(rng, kTemplate), "");
    ExpectSound(chat_template.status());
    if (!chat_template.ok()) continue;
    ExpectSound((*chat_template)->Render({.messages_json = messages}).status());
  }
  const auto chat_template = ChatTemplate::FromSource(kTemplate, "");
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  for (int round = 0; round < 1000; ++round) {
    const std::string broken = Mutate(rng, messages);
    ExpectSound((*chat_template)->Render({.messages_json = broken}).status());
    ExpectSound(
        (*chat_template)->Render({.messages_json = messages, .tools_json = broken}).status());
    ExpectSound(
        (*chat_template)->Render({.messages_json = messages, .extra_json = broken}).status());
  }
  ExpectSound((*chat_template)->Render({.messages_json = Repeat("[", 1 << 20)}).status());
}

// Each would overflow the stack, exhaust the memory or run for ever if it were let.
TEST(TextFuzzTest, HostileTemplatesAreBounded) {
  const std::string nest =
      "{% set ns = namespace(x=[], y=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}"
      "{% set ns.y = [ns.y] %}{% endfor %}";
  const std::string grow = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}";
  const std::vector<std::string> sources = {
      nest + "{{ ns.x }}",
      nest + "{{ ns.x == ns.y }}",
      nest + "{{ 'a' ~ ns.x }}",
      nest + "{{ ns.x | tojson }}",
      nest + "{{ [ns.x, ns.y] | sort }}",
      grow + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}",
      grow + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
      "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{{ " + Repeat("(", 100000) + "1" + Repeat(")", 100000) + " }}",
      "{{ " + Repeat("[", 100000) + Repeat("]", 100000) + " }}",
      "{{ " + Repeat("-", 200000) + "1 }}",
      "{{ " + Repeat("not ", 60000) + "1 }}",
      "{{ " + Repeat("1+", 100000) + "1 }}",
      "{{ 1" + Repeat("|string", 30000) + " }}",
      "{{ messages" + Repeat(".b", 100000) + " }}",
      "{{ " + Repeat("1 if 0 else ", 20000) + "1 }}",
      "{% if 0 %}" + Repeat("{% elif 0 %}x", 18000) + "{% endif %}",
      Repeat("{% if 1 %}", 20000) + Repeat("{% endif %}", 10000),
      "{{ 'a' * 100000000000 }}",
      "{{ ([1] * 100000000) | list | length }}",
      "{{ ([1] * 100000000) | string | length }}",
      "{{ ([1] * 100000000) | tojson | length }}",
      "{{ '%0999999999d' | format(1) }}",
      "{{ '%.999999999f' | format(1.5) }}",
      "{{ '{:999999999999}'.format(1) }}",
      "{{ 'a'.ljust(999999999999) }}{{ '1'.zfill(999999999999) }}",
      "{{ 'a\nb' | indent(999999999999) | length }}",
      "{{ 2 ** 100000 }}",
      "{% include 'default' %}",
      "{% extends 'default' %}",
      Repeat("{%", 50000),
      Repeat("{#", 50000),
      Repeat("{{ '", 50000),
      std::string("{{ '\0' }}\0", 10),
      Repeat("x", 1 << 20),
  };
  for (const std::string& source : sources) {
    SCOPED_TRACE(source.substr(0, 60));
    const auto chat_template = ChatTemplate::FromSource(source, "");
    ExpectSound(chat_template.status());
    if (!chat_template.ok()) continue;
    const auto text = (*chat_template)->Render({.messages_json = "[]"});
    ExpectSound(text.status());
    EXPECT_LT(text.value_or("").size(), 128u << 20);
  }
}

class GrammarFuzzTest : public ::testing::Test {
 protected:
  GrammarFuzzTest() {
    tokenizer_ = *Tokenizer::FromJson(TokenizerJson("qwen_like"));
    end_ = *tokenizer_->TokenToId("<|im_end|>");
    const std::vector<TokenId> ends = {end_, *tokenizer_->TokenToId("<|im_start|>")};
    compiler_ = *GrammarCompiler::Create(tokenizer_, tokenizer_->vocab_size() + 40, ends);
  }

  std::vector<uint32_t> Mask(GrammarMatcher& matcher) {
    std::vector<uint32_t> mask(compiler_->mask_words());
    const absl::Status status = matcher.FillMask(mask);
    EXPECT_TRUE(status.ok()) << status;
    return mask;
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  TokenId end_;
  std::shared_ptr<const GrammarCompiler> compiler_;
};

const std::vector<std::pair<GrammarKind, std::string>>& Grammars() {
  static const auto& grammars = *new std::vector<std::pair<GrammarKind, std::string>>{
      {GrammarKind::kJsonSchema,
       R"({"type": "object", "properties": {"name": {"type": "string", "maxLength": 8},
           "tags": {"type": "array", "items": {"enum": ["a", "é", 1, null]}, "maxItems": 3},
           "n": {"type": "integer", "minimum": -5, "maximum": 300}}, "required": ["name", "n"],
           "additionalProperties": false})"},
      {GrammarKind::kJsonSchema, R"({"anyOf": [{"const": "x"}, {"$ref": "#/$defs/t"}],
           "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 2}}})"},
      {GrammarKind::kRegex, R"((\d{3}-)?[a-f]{2,5}(é|你好)*\.)"},
      {GrammarKind::kLark,
       "start: item (\",\" item)*\nitem: NAME \"=\" (NUMBER | \"[\" start \"]\")\n"
       "NAME: /[a-z]{1,4}/\nNUMBER: /[0-9]{1,3}/\n"},
  };
  return grammars;
}

TEST_F(GrammarFuzzTest, MasksAndAcceptAgreeOnRandomWalks) {
  Rng rng(5);
  for (const auto& [kind, source] : Grammars()) {
    SCOPED_TRACE(source);
    for (int walk = 0; walk < 15; ++walk) {
      auto matcher = compiler_->Compile(kind, source);
      ASSERT_TRUE(matcher.ok()) << matcher.status();
      std::vector<std::vector<uint32_t>> masks;
      for (int step = 0; step < 40; ++step) {
        masks.push_back(Mask(*matcher));
        std::vector<TokenId> allowed;
        for (TokenId id = 0; id < compiler_->mask_words() * 32; ++id) {
          const bool is_allowed = (masks.back()[id / 32] >> (id % 32)) & 1;
          if (is_allowed) {
            ASSERT_LT(id, tokenizer_->vocab_size());
            allowed.push_back(id);
          } else if (rng() % 50 == 0) {
            ASSERT_EQ(matcher->Accept(id).code(), absl::StatusCode::kFailedPrecondition) << id;
          }
        }
        ASSERT_FALSE(allowed.empty());
        const TokenId next = allowed[rng() % allowed.size()];
        ASSERT_TRUE(matcher->Accept(next).ok()) << next;
        if (tokenizer_->IsSpecial(next)) {
          EXPECT_TRUE(matcher->IsFinished());
          break;
        }
      }
      // Back to a random step: the mask is what it was there, in a clone too.
      const size_t back = 1 + rng() % masks.size();
      ASSERT_TRUE(matcher->Rollback(static_cast<int32_t>(back)).ok());
      EXPECT_EQ(Mask(*matcher), masks[masks.size() - back]);
      auto clone = matcher->Clone();
      ASSERT_TRUE(clone.ok());
      EXPECT_EQ(Mask(*clone), masks[masks.size() - back]);
    }
  }
}

TEST_F(GrammarFuzzTest, BrokenGrammarsAreStatuses) {
  Rng rng(6);
  for (const auto& [kind, source] : Grammars()) {
    for (int round = 0; round < 60; ++round) {
      const std::string broken = rng() % 8 == 0 ? RandomBytes(rng, 100) : Mutate(rng, source);
      auto matcher = compiler_->Compile(kind, broken);
      ExpectSound(matcher.status());
      if (!matcher.ok()) continue;
      Mask(*matcher);
      ExpectSound(matcher->Accept(static_cast<TokenId>(rng() % 600)));
    }
  }
}

TEST_F(GrammarFuzzTest, HostileGrammarsAreBounded) {
  const std::vector<std::pair<GrammarKind, std::string>> grammars = {
      {GrammarKind::kJsonSchema, Repeat("{\"items\":", 120) + "true" + Repeat("}", 120)},
      {GrammarKind::kJsonSchema, Repeat("{\"items\":", 20000) + "true" + Repeat("}", 20000)},
      {GrammarKind::kJsonSchema, R"({"$ref": "#"})"},
      {GrammarKind::kJsonSchema, R"({"$ref": "https://example.com/schema.json"})"},
      {GrammarKind::kJsonSchema, R"({"type": "string", "minLength": 99999, "maxLength": 999999})"},
      {GrammarKind::kJsonSchema, R"({"type": "array", "minItems": 99999, "maxItems": 999999})"},
      {GrammarKind::kRegex, Repeat("(", 100000) + "a" + Repeat(")", 100000)},
      {GrammarKind::kRegex, "((((a{100}){100}){100}){100}){100}"},
      {GrammarKind::kRegex, "(.*a.{20}b){30}"},
      {GrammarKind::kRegex, "a" + Repeat("*", 100000)},
      {GrammarKind::kRegex, Repeat("a|", 50000) + "b"},
      {GrammarKind::kLark, "start: " + Repeat("(", 100000) + "\"a\"" + Repeat(")", 100000)},
      {GrammarKind::kLark, "start: start start | \"a\" | "},
      {GrammarKind::kLark, "start: start"},
  };
  for (const auto& [kind, source] : grammars) {
    SCOPED_TRACE(source.substr(0, 60));
    auto matcher = compiler_->Compile(kind, source);
    ExpectSound(matcher.status());
    if (!matcher.ok()) continue;
    std::vector<uint32_t> mask(compiler_->mask_words());
    ExpectSound(matcher->FillMask(mask));
  }
}

}  // namespace
}  // namespace fathom::text
