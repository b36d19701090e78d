#pragma once

// Text to tokens and back: tokenizer, chat template, streaming decoder, grammar. The work is done
// by the Rust crates tokenizers, minijinja and llguidance behind the C ABI of c_api.h; this is its
// C++ face. Every call is bounded, returns a Status for any input, and no panic crosses the border.
// Thread safety: Tokenizer, ChatTemplate and GrammarCompiler may be shared between threads;
// StreamDecoder and GrammarMatcher belong to one thread at a time.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Handles of c_api.h.
struct fathom_tokenizer;
struct fathom_stream_decoder;
struct fathom_chat_template;
struct fathom_grammar_compiler;
struct fathom_grammar_matcher;

namespace fathom::text {

using TokenId = int32_t;

struct EncodeOptions {
  bool add_special_tokens = true;  // what the post-processor adds (BOS and the like)
  // Text that spells a special token becomes that token. Chat templates need it; raw user text may
  // turn it off, and then "<|im_end|>" in it is plain text. Added tokens that are not special (many
  // models' <think>, <tool_call>, runs of spaces) are vocabulary and are read either way, as with
  // transformers' split_special_tokens.
  bool parse_special = true;
};

class Tokenizer {
 public:
  // Reads DIR/tokenizer.json. Padding and truncation found there are cleared.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromDirectory(std::string_view directory);
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromJson(std::string_view tokenizer_json);

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              EncodeOptions options = {}) const;
  absl::StatusOr<std::vector<std::vector<TokenId>>> EncodeBatch(std::span<const std::string> texts,
                                                                EncodeOptions options = {}) const;
  absl::StatusOr<std::string> Decode(std::span<const TokenId> ids, bool skip_special_tokens) const;

  // One more than the largest id, added tokens included.
  int32_t vocab_size() const;
  std::optional<TokenId> TokenToId(std::string_view token) const;
  // The token as the vocabulary spells it ("Ġhello").
  std::optional<std::string> IdToToken(TokenId id) const;
  // The bytes the token stands for in the middle of text (" hello"); may be part of a UTF-8
  // character. Empty for unknown ids. Lives as long as the tokenizer.
  std::string_view TokenBytes(TokenId id) const;
  bool IsSpecial(TokenId id) const;
  // SHA-256 of the tokenizer.json as read, in hex: master and worker compare it.
  const std::string& digest() const;

  fathom_tokenizer* handle() const { return handle_.get(); }
  ~Tokenizer();

 private:
  explicit Tokenizer(fathom_tokenizer* handle);
  struct Free {
    void operator()(fathom_tokenizer* p) const;
  };
  std::unique_ptr<fathom_tokenizer, Free> handle_;
  std::string digest_;
};

// Turns a stream of tokens into a stream of text. Never emits half a UTF-8 character; keeps spaces
// as Decode of the whole would. The texts of all Push calls and Flush, joined, equal Decode of all
// tokens; but for runs of over 64 byte-fallback tokens that turn out not to be UTF-8 late, whose
// text is not held back for ever.
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  // The text that became certain with this token; often empty.
  absl::StatusOr<std::string> Push(TokenId id);
  // What was held back (an unfinished character becomes U+FFFD).
  absl::StatusOr<std::string> Flush();

 private:
  struct Free {
    void operator()(fathom_stream_decoder* p) const;
  };
  std::unique_ptr<fathom_stream_decoder, Free> handle_;
};

struct ChatTemplateInput {
  std::string_view messages_json;  // array of OpenAI messages
  std::string_view tools_json;     // array, or empty for none
  std::string_view extra_json;     // object of further template variables, or empty
  bool add_generation_prompt = true;
  // What strftime_now tells; the machine's clock if not set.
  std::optional<int64_t> now_unix_seconds;
};

// Templates recurse in code that is not ours, as deep as they are written. On a thread with such a
// stack they run in place, on any other on one of the library's own, which costs two changes of
// threads.
inline constexpr size_t kDeepStackBytes = size_t{512} << 20;

// A Jinja chat template, rendered byte-equal to transformers' apply_chat_template.
class ChatTemplate {
 public:
  // DIR/chat_template.jinja, else chat_template of DIR/tokenizer_config.json; bos_token, eos_token
  // and the like from tokenizer_config.json and special_tokens_map.json. NOT_FOUND when the model
  // has no template.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> FromDirectory(
      std::string_view directory);
  // `variables_json`: object of variables every render sees (bos_token ...).
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> FromSource(
      std::string_view source, std::string_view variables_json);

  // Whether the template's source spells `word`: a hint at what it knows of.
  bool Mentions(std::string_view word) const;
  // INVALID_ARGUMENT with the template's own words for raise_exception.
  absl::StatusOr<std::string> Render(const ChatTemplateInput& input) const;
  ~ChatTemplate();

 private:
  explicit ChatTemplate(fathom_chat_template* handle);
  struct Free {
    void operator()(fathom_chat_template* p) const;
  };
  std::unique_ptr<fathom_chat_template, Free> handle_;
};

enum class GrammarKind : uint8_t { kJsonSchema, kRegex, kLark };

struct GrammarLimits {
  size_t source_bytes_max = 256 * 1024;
  int32_t compile_ms_max = 2000;
};

// The state of one choice in its grammar.
class GrammarMatcher {
 public:
  GrammarMatcher(GrammarMatcher&&) noexcept;
  GrammarMatcher& operator=(GrammarMatcher&&) noexcept;
  ~GrammarMatcher();

  // Sets bit `id` of `mask` (32 ids a word, mask_words() of them) for every token allowed next.
  // End-of-sequence tokens are allowed exactly where the grammar may end.
  absl::Status FillMask(std::span<uint32_t> mask);
  // FAILED_PRECONDITION when the token is not allowed; the state is then unchanged.
  absl::Status Accept(TokenId id);
  // Undoes the last `num_tokens` accepted ones.
  absl::Status Rollback(int32_t num_tokens);
  // The grammar can take nothing more: only end of sequence is left.
  bool IsFinished() const;
  absl::StatusOr<GrammarMatcher> Clone() const;

 private:
  friend class GrammarCompiler;
  explicit GrammarMatcher(fathom_grammar_matcher* handle);
  struct Free {
    void operator()(fathom_grammar_matcher* p) const;
  };
  std::unique_ptr<fathom_grammar_matcher, Free> handle_;
};

// Compiles grammars for one tokenizer; made once a model. The vocabulary's trie is made in the
// background; the first Compile waits for it. Special tokens, and added ones in angle brackets, are
// reached by name in Lark (`<tool_call>`), never by their letters.
class GrammarCompiler {
 public:
  // `vocab_size`: the model's logits, >= the tokenizer's; ids beyond the tokenizer's are never
  // allowed.
  static absl::StatusOr<std::shared_ptr<const GrammarCompiler>> Create(
      std::shared_ptr<const Tokenizer> tokenizer, int32_t vocab_size,
      std::span<const TokenId> end_of_sequence);

  // INVALID_ARGUMENT with the reason for a bad grammar; RESOURCE_EXHAUSTED over a limit.
  absl::StatusOr<GrammarMatcher> Compile(GrammarKind kind, std::string_view source,
                                         const GrammarLimits& limits = {}) const;
  int32_t mask_words() const;
  ~GrammarCompiler();

 private:
  GrammarCompiler(fathom_grammar_compiler* handle, int32_t vocab_size);
  struct Free {
    void operator()(fathom_grammar_compiler* p) const;
  };
  std::unique_ptr<fathom_grammar_compiler, Free> handle_;
  int32_t vocab_size_;
};

}  // namespace fathom::text
