#pragma once

// Who a request comes from. Made from a key alone, never from anything else a client sends.

#include <cstdint>
#include <string>

#include "master/state/quotas.h"

namespace fathom::master {

struct Principal {
  std::string key_id;            // the key's name, for logs; never the key
  std::string role;              // "admin", "developer" or "auditor"
  std::string tenant;            // fairness and prefix reuse are by tenant
  int32_t weight = 1;            // its share, relative to other tenants
  QuotaLimits quota;             // of the key
  int32_t priority_ceiling = 0;  // the most urgent priority it may ask for; 0 is the most urgent
};

}  // namespace fathom::master
