#include "worker/engine/validate.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/sampling/params.h"

namespace fathom::worker {
namespace {

absl::Status CheckTokens(const std::vector<TokenId>& tokens, int32_t vocab_size) {
  for (const TokenId id : tokens) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is not in the vocabulary of ", vocab_size));
    }
  }
  return absl::OkStatus();
}

// Full blocks of the prompt are shared between choices, all else is their own.
absl::Status CheckFits(const EngineRequest& r, const EngineOptions& o) {
  const int64_t block = o.kv.block_tokens;
  const int64_t shared = static_cast<int64_t>(r.prompt.size()) / block;
  const int64_t each = (MaxLength(r, o) + block - 1) / block - shared;
  const int64_t needed = shared + each * static_cast<int64_t>(r.choices.size());
  const int64_t blocks = *std::min_element(o.plan.num_blocks.begin(), o.plan.num_blocks.end());
  if (needed <= blocks) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "prompt + max_tokens * n is more than the KV cache of this worker holds: ", needed,
      " blocks of ", block, " tokens, it has ", blocks));
}

}  // namespace

int32_t MaxLength(const EngineRequest& request, const EngineOptions& options) {
  return static_cast<int32_t>(std::min<int64_t>(
      options.max_context,
      static_cast<int64_t>(request.prompt.size()) + std::max(request.stop.max_tokens, 0)));
}

absl::Status ValidateRequest(const EngineRequest& r, const EngineOptions& o, bool has_grammars) {
  if (r.id.empty() || r.id.size() > kMaxIdBytes) {
    return absl::InvalidArgumentError("the request's id is empty or too long");
  }
  if (r.prompt.empty()) return absl::InvalidArgumentError("the prompt is empty");
  if (r.prompt.size() >= static_cast<size_t>(o.max_context)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", r.prompt.size(), " tokens, the model's context is ", o.max_context));
  }
  if (r.choices.empty() || r.choices.size() > kMaxChoices) {
    return absl::InvalidArgumentError(absl::StrCat("n must be in [1, ", kMaxChoices, "]"));
  }
  if (r.adapter_id >= 0) return absl::UnimplementedError("adapters are not supported");
  RETURN_IF_ERROR(CheckTokens(r.prompt, o.vocab_size));
  RETURN_IF_ERROR(ValidateSampling(r.sampling, o.vocab_size));
  RETURN_IF_ERROR(ValidateStop(r.stop, o.vocab_size));
  RETURN_IF_ERROR(ValidateLogprobs(r.logprobs));
  std::set<int32_t> indices;
  for (const ChoiceStart& c : r.choices) {
    if (c.index < 0 || !indices.insert(c.index).second) {
      return absl::InvalidArgumentError("choice indices must differ and not be negative");
    }
    if (c.tokens.size() > static_cast<size_t>(MaxLength(r, o)) - r.prompt.size()) {
      return absl::InvalidArgumentError("a choice has more tokens than it may have");
    }
    RETURN_IF_ERROR(CheckTokens(c.tokens, o.vocab_size));
  }
  if (r.grammar.has_value()) {
    if (!has_grammars) return absl::UnimplementedError("this worker compiles no grammars");
    if (r.grammar->source.size() > kMaxGrammarBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the grammar is larger than ", kMaxGrammarBytes, " bytes"));
    }
  }
  return CheckFits(r, o);
}

absl::Status ValidateOptions(const EngineOptions& o) {
  const auto invalid = [](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat("engine options: ", what));
  };
  if (o.vocab_size <= 0 || o.max_context <= 1) return invalid("vocabulary or context is empty");
  if (!CheckTokens(o.eos_token_ids, o.vocab_size).ok()) {
    return invalid("an end-of-sequence id is not in the vocabulary");
  }
  if (o.kv.block_tokens <= 0 || o.kv.groups.empty()) return invalid("no KV groups");
  if (o.plan.num_blocks.size() != o.kv.groups.size()) return invalid("the plan has other groups");
  if (*std::min_element(o.plan.num_blocks.begin(), o.plan.num_blocks.end()) <= 0) {
    return invalid("a group has no blocks");
  }
  if (o.plan.max_sequences <= 0) return invalid("no slots");
  if (o.max_step_tokens < o.plan.max_sequences || o.max_logit_rows < o.plan.max_sequences) {
    return invalid("a step must hold a token and a logit row of every slot");
  }
  if (static_cast<int64_t>(o.plan.max_blocks_per_sequence) * o.kv.block_tokens < o.max_context) {
    return invalid("block tables are shorter than the context");
  }
  if (o.max_waiting <= 0 || o.grammar_threads <= 0) return invalid("a limit is not positive");
  for (const KvGroup& group : o.kv.groups) {
    if (group.kind == KvGroupKind::kState) {
      return absl::UnimplementedError("layers with recurrent state are not supported");
    }
    if (group.kind == KvGroupKind::kSlidingWindow && group.window_tokens <= 0) {
      return invalid("a sliding window without a size");
    }
  }
  return absl::OkStatus();
}

}  // namespace fathom::worker
