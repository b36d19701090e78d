#pragma once

// What a request must give, computed the slow way: one choice at a time, one token at a time, the
// whole history anew for every token. Thread safety: pure.

#include <cstdint>
#include <vector>

#include "worker/engine/request.h"
#include "worker/engine/testing/fake_model.h"
#include "worker/sampling/grammar.h"

namespace fathom::worker {

struct OracleAnswer {
  std::vector<TokenId> tokens;  // all of the choice, those it came with included
  FinishReason finish = FinishReason::kNone;
  std::vector<PositionLogprobs> logprobs;  // of new tokens, when asked for
};

OracleAnswer AskOracle(const EngineRequest& request, const ChoiceStart& choice,
                       const FakeModelOptions& model, const GrammarFactory* grammars);

// Grammars for tests: which tokens may come next is a hash of the tokens so far and the spec; ends
// after as many tokens as the spec's source has bytes. The source "bad" does not compile.
std::shared_ptr<const GrammarFactory> MakeFakeGrammars(int32_t vocab_size, TokenId eos);

}  // namespace fathom::worker
