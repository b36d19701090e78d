#include "worker/sampling/grammar.h"

#include <utility>

#include "common/status_macros.h"
#include "text/text.h"

namespace fathom::worker {
namespace {

class TextGrammarState final : public GrammarState {
 public:
  explicit TextGrammarState(text::GrammarMatcher matcher) : matcher_(std::move(matcher)) {}
  absl::Status FillMask(std::span<uint32_t> mask) override { return matcher_.FillMask(mask); }
  absl::Status Accept(TokenId token) override { return matcher_.Accept(token); }
  bool IsFinished() const override { return matcher_.IsFinished(); }
  absl::StatusOr<std::unique_ptr<GrammarState>> Clone() const override {
    ASSIGN_OR_RETURN(text::GrammarMatcher copy, matcher_.Clone());
    return std::make_unique<TextGrammarState>(std::move(copy));
  }

 private:
  text::GrammarMatcher matcher_;
};

text::GrammarKind ToText(GrammarKind kind) {
  switch (kind) {
    case GrammarKind::kJsonSchema:
      return text::GrammarKind::kJsonSchema;
    case GrammarKind::kRegex:
      return text::GrammarKind::kRegex;
    case GrammarKind::kLark:
      return text::GrammarKind::kLark;
  }
  return text::GrammarKind::kLark;
}

class TextGrammarFactory final : public GrammarFactory {
 public:
  explicit TextGrammarFactory(std::shared_ptr<const text::GrammarCompiler> compiler)
      : compiler_(std::move(compiler)) {}
  absl::StatusOr<std::unique_ptr<GrammarState>> Compile(const GrammarSpec& spec) const override {
    ASSIGN_OR_RETURN(text::GrammarMatcher matcher,
                     compiler_->Compile(ToText(spec.kind), spec.source));
    return std::make_unique<TextGrammarState>(std::move(matcher));
  }
  int32_t mask_words() const override { return compiler_->mask_words(); }

 private:
  const std::shared_ptr<const text::GrammarCompiler> compiler_;
};

}  // namespace

std::shared_ptr<const GrammarFactory> MakeGrammarFactory(
    std::shared_ptr<const text::GrammarCompiler> compiler) {
  if (compiler == nullptr) return nullptr;
  return std::make_shared<TextGrammarFactory>(std::move(compiler));
}

}  // namespace fathom::worker
