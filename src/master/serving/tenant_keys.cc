#include "master/serving/tenant_keys.h"

#include <cstring>

#include "common/digest.h"

namespace fathom::master {

TenantKeys DeriveTenantKeys(std::string_view cluster_secret, std::string_view tenant) {
  const auto derive = [&](std::string purpose) {
    return HmacSha256(cluster_secret, purpose.append(tenant));
  };
  TenantKeys keys;
  keys.cache_salt = derive("fathom cache scope\n");
  std::memcpy(&keys.hash, derive("fathom tenant\n").data(), sizeof(keys.hash));
  return keys;
}

}  // namespace fathom::master
