#pragma once

// How a worker shares its capacity among masters. A credit is the token cost that a master may have
// in flight here, in all; a master dispatches only within it, so that several masters do not
// overcommit one worker.

#include <cstdint>
#include <vector>

namespace fathom::worker {

struct CreditClaim {
  int64_t in_flight = 0;  // token cost this master has here
  int64_t backlog = 0;    // token cost it says is waiting
};

// One credit a claim: what it has in flight plus a share of what is free. The shares' sum is at
// most `capacity` less everything in flight, `unowned` (work whose master is gone) included. A
// quarter of what is free is shared evenly, so that an idle master's next request need not wait for
// a grant; the rest in proportion to the backlogs (evenly when there are none). Pure.
std::vector<int64_t> GrantCredits(int64_t capacity, int64_t unowned,
                                  const std::vector<CreditClaim>& claims);

}  // namespace fathom::worker
