#pragma once

// The C ABI of the Rust library beneath text.h; nothing but the .cc files of this folder and its
// tests should need it.
//
// - Texts go in as fathom_bytes, borrowed for the call; they need not be UTF-8 (what must be and is
//   not ends in INVALID_ARGUMENT) and need no terminating zero.
// - Functions that can fail return a code with the values of absl::StatusCode. On failure
//   `*error`, unless null, owns a message (else it owns nothing) and `*out` is untouched.
// - What is owned: a fathom_buffer or fathom_ids given out is the caller's to free with
//   fathom_buffer_free or fathom_ids_free; a handle with its own *_free; freeing null is fine.
//   A fathom_bytes given out is borrowed from the handle, for as long as its function says.
// - Handles must not be null where used. Those of a type marked const may be used by many threads
//   at once, others by one at a time.
// - No function throws, unwinds or aborts for any input: panics inside end in INTERNAL.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fathom_tokenizer fathom_tokenizer;
typedef struct fathom_stream_decoder fathom_stream_decoder;
typedef struct fathom_chat_template fathom_chat_template;
typedef struct fathom_grammar_compiler fathom_grammar_compiler;
typedef struct fathom_grammar_matcher fathom_grammar_matcher;

typedef struct fathom_bytes {
  const uint8_t* data;  // may be null when size is 0
  size_t size;
} fathom_bytes;

typedef struct fathom_buffer {
  uint8_t* data;
  size_t size;
  size_t capacity;
} fathom_buffer;

typedef struct fathom_ids {
  int32_t* data;
  size_t size;
  size_t capacity;
} fathom_ids;

void fathom_buffer_free(fathom_buffer buffer);
void fathom_ids_free(fathom_ids ids);

// Tokenizer.

// Reads DIRECTORY/tokenizer.json; NOT_FOUND without it.
int32_t fathom_tokenizer_from_directory(fathom_bytes directory, fathom_tokenizer** out,
                                        fathom_buffer* error);
int32_t fathom_tokenizer_from_json(fathom_bytes json, fathom_tokenizer** out, fathom_buffer* error);
void fathom_tokenizer_free(fathom_tokenizer* tokenizer);
int32_t fathom_tokenizer_encode(const fathom_tokenizer* tokenizer, fathom_bytes text,
                                bool add_special_tokens, bool parse_special, fathom_ids* out,
                                fathom_buffer* error);
int32_t fathom_tokenizer_decode(const fathom_tokenizer* tokenizer, const int32_t* ids, size_t count,
                                bool skip_special_tokens, fathom_buffer* out, fathom_buffer* error);
int32_t fathom_tokenizer_vocab_size(const fathom_tokenizer* tokenizer);
// -1 for an unknown token.
int32_t fathom_tokenizer_token_to_id(const fathom_tokenizer* tokenizer, fathom_bytes token);
// False, with `*out` untouched, for an unknown id.
bool fathom_tokenizer_id_to_token(const fathom_tokenizer* tokenizer, int32_t id,
                                  fathom_buffer* out);
// Both answers live as long as the tokenizer.
fathom_bytes fathom_tokenizer_token_bytes(const fathom_tokenizer* tokenizer, int32_t id);
fathom_bytes fathom_tokenizer_digest(const fathom_tokenizer* tokenizer);
bool fathom_tokenizer_is_special(const fathom_tokenizer* tokenizer, int32_t id);

// Stream decoder. Independent of the tokenizer handle's life. `*out` lives until the next call.

fathom_stream_decoder* fathom_stream_decoder_new(const fathom_tokenizer* tokenizer,
                                                 bool skip_special_tokens);
void fathom_stream_decoder_free(fathom_stream_decoder* decoder);
int32_t fathom_stream_decoder_push(fathom_stream_decoder* decoder, int32_t id, fathom_bytes* out,
                                   fathom_buffer* error);
int32_t fathom_stream_decoder_flush(fathom_stream_decoder* decoder, fathom_bytes* out,
                                    fathom_buffer* error);

// Chat template.

typedef struct fathom_chat_template_input {
  fathom_bytes messages_json;
  fathom_bytes tools_json;  // empty for none
  fathom_bytes extra_json;  // empty for none
  bool add_generation_prompt;
  bool has_now;  // else strftime_now reads the machine's clock
  int64_t now_unix_seconds;
} fathom_chat_template_input;

int32_t fathom_chat_template_from_directory(fathom_bytes directory, fathom_chat_template** out,
                                            fathom_buffer* error);
int32_t fathom_chat_template_from_source(fathom_bytes source, fathom_bytes variables_json,
                                         fathom_chat_template** out, fathom_buffer* error);
void fathom_chat_template_free(fathom_chat_template* chat_template);
// Whether any of the model's templates spells `word`.
bool fathom_chat_template_mentions(const fathom_chat_template* chat_template, fathom_bytes word);
int32_t fathom_chat_template_render(const fathom_chat_template* chat_template,
                                    const fathom_chat_template_input* input, fathom_buffer* out,
                                    fathom_buffer* error);

// Grammar. Compilers and matchers are independent of the life of what they were made from.

int32_t fathom_grammar_compiler_new(const fathom_tokenizer* tokenizer, int32_t vocab_size,
                                    const int32_t* end_of_sequence, size_t end_of_sequence_count,
                                    fathom_grammar_compiler** out, fathom_buffer* error);
void fathom_grammar_compiler_free(fathom_grammar_compiler* compiler);
// `kind`: 0 JSON schema, 1 regex, 2 Lark.
int32_t fathom_grammar_compile(const fathom_grammar_compiler* compiler, int32_t kind,
                               fathom_bytes source, size_t source_bytes_max, int32_t compile_ms_max,
                               fathom_grammar_matcher** out, fathom_buffer* error);
void fathom_grammar_matcher_free(fathom_grammar_matcher* matcher);
// `word_count` must be the model's vocabulary / 32, rounded up.
int32_t fathom_grammar_matcher_fill_mask(fathom_grammar_matcher* matcher, uint32_t* mask,
                                         size_t word_count, fathom_buffer* error);
// FAILED_PRECONDITION, the state unchanged, when the token is not allowed.
int32_t fathom_grammar_matcher_accept(fathom_grammar_matcher* matcher, int32_t id,
                                      fathom_buffer* error);
int32_t fathom_grammar_matcher_rollback(fathom_grammar_matcher* matcher, int32_t token_count,
                                        fathom_buffer* error);
bool fathom_grammar_matcher_is_finished(const fathom_grammar_matcher* matcher);
int32_t fathom_grammar_matcher_clone(const fathom_grammar_matcher* matcher,
                                     fathom_grammar_matcher** out, fathom_buffer* error);

#ifdef __cplusplus
}  // extern "C"
#endif
