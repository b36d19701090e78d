#include "master/api/quota_headers.h"

#include "absl/strings/str_cat.h"

namespace fathom::master {

void AddQuotaHeaders(Quotas* quotas, const Principal& principal, HttpReply& reply) {
  if (quotas == nullptr || !principal.quota.any()) return;
  const auto add = [&](QuotaKind kind, const char* name) {
    const auto view = quotas->View(principal.key_id, principal.quota, kind);
    if (!view) return;
    reply.headers.emplace_back(absl::StrCat("x-ratelimit-limit-", name), absl::StrCat(view->limit));
    reply.headers.emplace_back(absl::StrCat("x-ratelimit-remaining-", name),
                               absl::StrCat(view->remaining));
    reply.headers.emplace_back(
        absl::StrCat("x-ratelimit-reset-", name),
        absl::StrCat(absl::ToInt64Milliseconds(absl::Ceil(view->reset, absl::Milliseconds(1))),
                     "ms"));
  };
  add(QuotaKind::kRequests, "requests");
  add(QuotaKind::kTokens, "tokens");
}

}  // namespace fathom::master
