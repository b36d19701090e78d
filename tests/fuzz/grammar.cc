// Grammars of clients: compiled within their limits or refused; what a mask allows is accepted,
// what it forbids is not, and a step taken back leaves the mask that was there.

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "fuzz/model.h"
#include "text/text.h"

namespace fathom::text {
namespace {

constexpr GrammarLimits kLimits{.source_bytes_max = 4096, .compile_ms_max = 1000};
constexpr int kSteps = 8;

using Mask = std::vector<uint32_t>;

const GrammarCompiler& Compiler() {
  static const auto& compiler = *new std::shared_ptr<const GrammarCompiler>([] {
    const auto tokenizer = fuzz::GoldenTokenizer("qwen_like");
    const std::vector<TokenId> ends = {*tokenizer->TokenToId("<|im_end|>")};
    auto made = GrammarCompiler::Create(tokenizer, tokenizer->vocab_size() + 40, ends);
    FATHOM_CHECK(made.ok(), "no compiler");
    return *std::move(made);
  }());
  return *compiler;
}

bool Allows(const Mask& mask, TokenId id) { return ((mask[id / 32] >> (id % 32)) & 1) != 0; }

// False when the walk ends here.
bool FillMask(GrammarMatcher& matcher, Mask& mask) {
  mask.assign(Compiler().mask_words(), 0);
  const absl::Status status = matcher.FillMask(mask);
  fuzz::CheckSound(1, status);
  return status.ok();
}

// The `choice`th of the allowed tokens, going round; -1 when there is none.
TokenId Pick(const Mask& mask, size_t choice) {
  std::vector<TokenId> allowed;
  const auto count = static_cast<TokenId>(mask.size() * 32);
  for (TokenId id = 0; id < count; ++id) {
    if (Allows(mask, id)) allowed.push_back(id);
  }
  return allowed.empty() ? -1 : allowed[choice % allowed.size()];
}

void Walk(GrammarMatcher matcher, std::string_view choices) {
  Mask mask;
  for (int step = 0; step < kSteps && FillMask(matcher, mask); ++step) {
    const auto choice = static_cast<unsigned char>(
        choices.empty() ? '0' : choices[static_cast<size_t>(step) % choices.size()]);
    const TokenId next = Pick(mask, choice);
    FATHOM_CHECK(next >= 0 || matcher.IsFinished(), "nothing is allowed, not even the end");
    if (next < 0) return;
    const auto forbidden = static_cast<TokenId>(choice);
    if (!Allows(mask, forbidden)) {
      FATHOM_CHECK(!matcher.Accept(forbidden).ok(), "a forbidden token was accepted");
    }
    FATHOM_CHECK(matcher.Accept(next).ok(), "an allowed token was refused");
    if (matcher.IsFinished()) return;
    Mask back;
    if (!matcher.Rollback(1).ok() || !FillMask(matcher, back)) return;
    FATHOM_CHECK(back == mask, "a step taken back leaves traces");
    FATHOM_CHECK(matcher.Accept(next).ok(), "an allowed token was refused after all");
  }
}

}  // namespace

// json_schema, regex or lark; choices of the walk; the source.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const std::string_view name = input.Line();
  const GrammarKind kind = name == "regex"  ? GrammarKind::kRegex
                           : name == "lark" ? GrammarKind::kLark
                                            : GrammarKind::kJsonSchema;
  const std::string_view choices = input.Line();
  auto matcher = Compiler().Compile(kind, input.Rest(), kLimits);
  fuzz::CheckSound(0, matcher.status());
  if (matcher.ok()) Walk(*std::move(matcher), choices);
  return 0;
}

}  // namespace fathom::text
