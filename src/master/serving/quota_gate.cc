#include "master/serving/quota_gate.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "master/serving/failure.h"

namespace fathom::master {

int64_t ReservedTokens(const GenerationRequest& request, int64_t prompt_tokens,
                       int32_t max_tokens) {
  const int64_t answer =
      max_tokens > 0 ? std::min(max_tokens, kReservedAnswerTokens) : kReservedAnswerTokens;
  return prompt_tokens + request.n * answer;
}

absl::StatusOr<QuotaCharge> TakeQuota(Quotas* quotas, const GenerationRequest& request,
                                      int64_t prompt_tokens) {
  if (quotas == nullptr) return QuotaCharge();
  auto [refusal, charge] =
      quotas->Enter(request.key_id, request.quota,
                    ReservedTokens(request, prompt_tokens, request.stop.max_tokens),
                    !request.resumption.have.empty());
  if (!refusal) return std::move(charge);
  return WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat(
          "this key's quota of ", refusal->limit,
          refusal->kind == QuotaKind::kRequests ? " requests" : " tokens", " a minute is used up")),
      refusal->retry_after);
}

}  // namespace fathom::master
