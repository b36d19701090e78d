#pragma once

// From a request's input to token ids: template, tokenizer, and the checks that need the model's
// limits. Slow for long prompts: call it on the CPU pool. Pure; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/domain.h"
#include "master/serving/constraint.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// Text that spells a special token becomes that token, in chats as in plain text: what transformers
// and the common servers do. Plain text also gets what the tokenizer's post-processor adds.
struct TokenizedPrompt {
  std::vector<TokenId> tokens;
  ReasoningStart reasoning_start = ReasoningStart::kNever;  // chats may have others
};
struct TokenizeOptions {
  bool add_special_tokens = true;     // plain text
  bool add_generation_prompt = true;  // chats
};
absl::StatusOr<TokenizedPrompt> TokenizePrompt(const ServedModelInfo& model,
                                               const PromptInput& input,
                                               const TokenizeOptions& how = {});

struct PreparedPrompt {
  std::vector<TokenId> tokens;
  ReasoningStart reasoning_start = ReasoningStart::kNever;
  std::optional<Constraint> constraint;  // all that the request allows of the output
  int32_t max_tokens = 0;                // resolved against the context
  int64_t cost = 0;                      // tokens at most: prompt + max_tokens x n
};

// INVALID_ARGUMENT with param, and code "context_length_exceeded" where the context is too short.
absl::StatusOr<PreparedPrompt> PreparePrompt(const GenerationRequest& request);

}  // namespace fathom::master
