#pragma once

// Between a generation and its key's quotas: what it is taken to cost before that is known, and
// what a client hears that has used them up. Pure, but for the quotas.

#include <cstdint>

#include "absl/status/statusor.h"
#include "master/serving/generation_request.h"
#include "master/state/quotas.h"

namespace fathom::master {

// An answer counts as its max_tokens, but no more than this, until it has ended.
inline constexpr int32_t kReservedAnswerTokens = 1024;

// RESOURCE_EXHAUSTED with the time to come back. `prompt_tokens` may be a guess. No quotas, no
// charge.
absl::StatusOr<QuotaCharge> TakeQuota(Quotas* quotas, const GenerationRequest& request,
                                      int64_t prompt_tokens);
int64_t ReservedTokens(const GenerationRequest& request, int64_t prompt_tokens, int32_t max_tokens);

}  // namespace fathom::master
