#pragma once

// Grammars as the engine sees them: compile a spec, then per choice a state that says which tokens
// may come next. The real ones stand on text::GrammarCompiler; tests bring their own. Thread
// safety: GrammarFactory may be shared between threads; a GrammarState belongs to one at a time.

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/domain.h"

namespace fathom::text {
class GrammarCompiler;
}  // namespace fathom::text

namespace fathom::worker {

class GrammarState {
 public:
  virtual ~GrammarState() = default;
  // Sets the bits of the tokens allowed next, clears the others: [mask_words], 32 ids a word.
  virtual absl::Status FillMask(std::span<uint32_t> mask) = 0;
  // FAILED_PRECONDITION when the token is not allowed.
  virtual absl::Status Accept(TokenId token) = 0;
  // Nothing but an end of sequence may follow.
  virtual bool IsFinished() const = 0;
  virtual absl::StatusOr<std::unique_ptr<GrammarState>> Clone() const = 0;
};

class GrammarFactory {
 public:
  virtual ~GrammarFactory() = default;
  // Takes up to seconds: never call it on an engine thread. INVALID_ARGUMENT for a bad grammar.
  virtual absl::StatusOr<std::unique_ptr<GrammarState>> Compile(const GrammarSpec& spec) const = 0;
  virtual int32_t mask_words() const = 0;
};

std::shared_ptr<const GrammarFactory> MakeGrammarFactory(
    std::shared_ptr<const text::GrammarCompiler> compiler);

}  // namespace fathom::worker
