// tokenizer.json: a tokenizer that loads takes and gives any text, and what it streams joins to
// what it decodes whole.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "text/text.h"

namespace fathom::text {
namespace {

// Byte-fallback runs longer than this may stream otherwise (see StreamDecoder).
constexpr size_t kIdsMax = 60;

void CheckStream(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<TokenId>& ids,
                 bool skip_special) {
  const auto whole = tokenizer->Decode(ids, skip_special);
  fuzz::CheckSound(1, whole.status());
  StreamDecoder decoder(tokenizer, skip_special);
  std::string joined;
  for (const TokenId id : ids) {
    const auto text = decoder.Push(id);
    fuzz::CheckSound(2, text.status());
    if (!text.ok()) return;
    joined += *text;
  }
  const auto rest = decoder.Flush();
  fuzz::CheckSound(3, rest.status());
  if (!whole.ok() || !rest.ok()) return;
  FATHOM_CHECK(joined + *rest == *whole, "the stream says something else");
}

void CheckText(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    auto ids = tokenizer->Encode(text, {.add_special_tokens = special, .parse_special = special});
    fuzz::CheckSound(4, ids.status());
    if (!ids.ok()) continue;
    for (const TokenId id : *ids) {
      FATHOM_CHECK(id >= 0 && id < tokenizer->vocab_size(), "an id beyond the vocabulary");
    }
    ids->resize(std::min(ids->size(), kIdsMax));
    CheckStream(tokenizer, *ids, special);
  }
}

void CheckVocabulary(const std::shared_ptr<const Tokenizer>& tokenizer) {
  std::vector<TokenId> all;
  for (TokenId id = 0; id < std::min(tokenizer->vocab_size(), 50); ++id) {
    all.push_back(id);
    const auto token = tokenizer->IdToToken(id);
    if (!token) continue;
    FATHOM_CHECK(tokenizer->TokenToId(*token).has_value(), "a token that is not there");
    tokenizer->TokenBytes(id);
    tokenizer->IsSpecial(id);
  }
  CheckStream(tokenizer, all, /*skip_special=*/false);
}

}  // namespace

// tokenizer.json, a line `===`, text to encode.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const auto tokenizer = Tokenizer::FromJson(input.Section("==="));
  fuzz::CheckSound(0, tokenizer.status());
  if (!tokenizer.ok()) return 0;
  CheckVocabulary(*tokenizer);
  CheckText(*tokenizer, input.Rest());
  CheckText(*tokenizer, "Hello, w\xC3\xB6rld \xF0\x9F\x98\x80 <s>\n\n  1234");
  const std::vector<TokenId> ends = {0};
  const auto compiler = GrammarCompiler::Create(*tokenizer, (*tokenizer)->vocab_size(), ends);
  fuzz::CheckSound(5, compiler.status());
  return 0;
}

}  // namespace fathom::text
