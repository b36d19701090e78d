#pragma once

// What workers learn of a tenant instead of its name: numbers derived from the cluster's secret,
// equal at every master that shares it. Thread safety: pure.

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom::master {

struct TenantKeys {
  uint64_t hash = 0;       // orders fairly; never a name
  std::string cache_salt;  // kCacheSaltBytes bytes; scope of prefix reuse
};

TenantKeys DeriveTenantKeys(std::string_view cluster_secret, std::string_view tenant);

}  // namespace fathom::master
