#include "worker/credits.h"

#include <algorithm>

namespace fathom::worker {

std::vector<int64_t> GrantCredits(int64_t capacity, int64_t unowned,
                                  const std::vector<CreditClaim>& claims) {
  std::vector<int64_t> credits;
  if (claims.empty()) return credits;
  int64_t free = capacity - unowned;
  double backlog = 0;  // backlogs come from outside: their sum may not fit an integer
  for (const CreditClaim& claim : claims) {
    free -= claim.in_flight;
    backlog += static_cast<double>(std::max<int64_t>(0, claim.backlog));
  }
  free = std::max<int64_t>(0, free);

  const auto count = static_cast<int64_t>(claims.size());
  const int64_t even = backlog > 0 ? free / 4 / count : free / count;
  int64_t rest = backlog > 0 ? free - even * count : 0;
  const auto shared = static_cast<double>(rest);
  credits.reserve(claims.size());
  for (const CreditClaim& claim : claims) {
    const double part =
        backlog > 0 ? static_cast<double>(std::max<int64_t>(0, claim.backlog)) / backlog : 0;
    const int64_t share = std::min(rest, static_cast<int64_t>(shared * part));
    rest -= share;
    credits.push_back(claim.in_flight + even + share);
  }
  return credits;
}

}  // namespace fathom::worker
