#include "worker/sampling/params.h"

#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::worker {
namespace {

absl::Status Within(std::string_view name, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return absl::InvalidArgumentError(
      absl::StrCat(ToAbsl(name), " is ", value, ", must be in [", low, ", ", high, "]"));
}

absl::Status AtMost(std::string_view name, size_t count, size_t limit) {
  if (count <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(ToAbsl(name), " has ", count, " entries, at most ", limit, " are allowed"));
}

absl::Status InVocabulary(std::string_view name, TokenId id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(ToAbsl(name), " holds token id ", id,
                                                 ", the vocabulary has ", vocab_size, " ids"));
}

}  // namespace

absl::Status ValidateSampling(const SamplingParams& params, int32_t vocab_size) {
  RETURN_IF_ERROR(Within("temperature", params.temperature, 0, 100));
  RETURN_IF_ERROR(Within("top_k", params.top_k, 0, INT32_MAX));
  RETURN_IF_ERROR(Within("top_p", params.top_p, 0, 1));
  if (params.top_p == 0) return absl::InvalidArgumentError("top_p is 0, must be in (0, 1]");
  RETURN_IF_ERROR(Within("min_p", params.min_p, 0, 1));
  RETURN_IF_ERROR(Within("presence_penalty", params.presence_penalty, -2, 2));
  RETURN_IF_ERROR(Within("frequency_penalty", params.frequency_penalty, -2, 2));
  RETURN_IF_ERROR(Within("repetition_penalty", params.repetition_penalty, 0.01, 100));
  RETURN_IF_ERROR(AtMost("logit_bias", params.logit_bias.size(), kMaxLogitBias));
  for (const LogitBias& b : params.logit_bias) {
    RETURN_IF_ERROR(InVocabulary("logit_bias", b.token, vocab_size));
    RETURN_IF_ERROR(Within("logit_bias", b.bias, -100, 100));
  }
  return absl::OkStatus();
}

absl::Status ValidateStop(const StopConditions& stop, int32_t vocab_size) {
  RETURN_IF_ERROR(Within("max_tokens", stop.max_tokens, 1, INT32_MAX));
  RETURN_IF_ERROR(Within("min_tokens", stop.min_tokens, 0, stop.max_tokens));
  RETURN_IF_ERROR(AtMost("stop_token_ids", stop.stop_token_ids.size(), kMaxStopTokenIds));
  for (const TokenId id : stop.stop_token_ids) {
    RETURN_IF_ERROR(InVocabulary("stop_token_ids", id, vocab_size));
  }
  return absl::OkStatus();
}

absl::Status ValidateLogprobs(const LogprobParams& logprobs) {
  RETURN_IF_ERROR(Within("top_logprobs", logprobs.output_top, 0, kMaxTopLogprobs));
  if (logprobs.prompt.has_value()) {
    RETURN_IF_ERROR(Within("prompt_logprobs", *logprobs.prompt, 0, kMaxTopLogprobs));
  }
  return absl::OkStatus();
}

}  // namespace fathom::worker
