#pragma once

// What a request gets of its caller. One place for all dialects. Pure.

#include <algorithm>

#include "master/identity/principal.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// A request may be less urgent than its key allows, never more.
inline void BelongTo(const Principal& principal, GenerationRequest& request) {
  request.key_id = principal.key_id;
  request.quota = principal.quota;
  request.tenant = principal.tenant;
  request.tenant_weight = principal.weight;
  request.priority = std::max(request.priority, principal.priority_ceiling);
}

}  // namespace fathom::master
