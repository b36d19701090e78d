#include "text/c_api_util.h"
#include "text/text.h"

namespace fathom::text {

void GrammarMatcher::Free::operator()(fathom_grammar_matcher* p) const {
  fathom_grammar_matcher_free(p);
}

GrammarMatcher::GrammarMatcher(fathom_grammar_matcher* handle) : handle_(handle) {}
GrammarMatcher::GrammarMatcher(GrammarMatcher&&) noexcept = default;
GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&&) noexcept = default;
GrammarMatcher::~GrammarMatcher() = default;

absl::Status GrammarMatcher::FillMask(std::span<uint32_t> mask) {
  OwnedBuffer error;
  return ToStatus(
      fathom_grammar_matcher_fill_mask(handle_.get(), mask.data(), mask.size(), error.out()),
      error);
}

absl::Status GrammarMatcher::Accept(TokenId id) {
  OwnedBuffer error;
  return ToStatus(fathom_grammar_matcher_accept(handle_.get(), id, error.out()), error);
}

absl::Status GrammarMatcher::Rollback(int32_t num_tokens) {
  OwnedBuffer error;
  return ToStatus(fathom_grammar_matcher_rollback(handle_.get(), num_tokens, error.out()), error);
}

bool GrammarMatcher::IsFinished() const {
  return fathom_grammar_matcher_is_finished(handle_.get());
}

absl::StatusOr<GrammarMatcher> GrammarMatcher::Clone() const {
  fathom_grammar_matcher* handle = nullptr;
  OwnedBuffer error;
  const int32_t code = fathom_grammar_matcher_clone(handle_.get(), &handle, error.out());
  if (code != 0) return ToStatus(code, error);
  return GrammarMatcher(handle);
}

void GrammarCompiler::Free::operator()(fathom_grammar_compiler* p) const {
  fathom_grammar_compiler_free(p);
}

GrammarCompiler::GrammarCompiler(fathom_grammar_compiler* handle, int32_t vocab_size)
    : handle_(handle), vocab_size_(vocab_size) {}
GrammarCompiler::~GrammarCompiler() = default;

absl::StatusOr<std::shared_ptr<const GrammarCompiler>> GrammarCompiler::Create(
    std::shared_ptr<const Tokenizer> tokenizer, int32_t vocab_size,
    std::span<const TokenId> end_of_sequence) {
  fathom_grammar_compiler* handle = nullptr;
  OwnedBuffer error;
  const int32_t code =
      fathom_grammar_compiler_new(tokenizer->handle(), vocab_size, end_of_sequence.data(),
                                  end_of_sequence.size(), &handle, error.out());
  if (code != 0) return ToStatus(code, error);
  return std::shared_ptr<const GrammarCompiler>(new GrammarCompiler(handle, vocab_size));
}

absl::StatusOr<GrammarMatcher> GrammarCompiler::Compile(GrammarKind kind, std::string_view source,
                                                        const GrammarLimits& limits) const {
  fathom_grammar_matcher* handle = nullptr;
  OwnedBuffer error;
  const int32_t code =
      fathom_grammar_compile(handle_.get(), static_cast<int32_t>(kind), Borrow(source),
                             limits.source_bytes_max, limits.compile_ms_max, &handle, error.out());
  if (code != 0) return ToStatus(code, error);
  return GrammarMatcher(handle);
}

int32_t GrammarCompiler::mask_words() const { return (vocab_size_ + 31) / 32; }

}  // namespace fathom::text
