#include "master/serving/tenant_keys.h"

#include <gtest/gtest.h>

#include "common/block_hash.h"

namespace fathom::master {
namespace {

TEST(TenantKeysTest, FollowFromSecretAndTenantAlone) {
  const TenantKeys keys = DeriveTenantKeys("secret", "tenant");
  EXPECT_EQ(keys.cache_salt.size(), kCacheSaltBytes);
  EXPECT_EQ(DeriveTenantKeys("secret", "tenant").cache_salt, keys.cache_salt);
  EXPECT_EQ(DeriveTenantKeys("secret", "tenant").hash, keys.hash);
  for (const auto& [secret, tenant] :
       {std::pair("other", "tenant"), std::pair("secret", "other"), std::pair("secret", "")}) {
    EXPECT_NE(DeriveTenantKeys(secret, tenant).cache_salt, keys.cache_salt);
    EXPECT_NE(DeriveTenantKeys(secret, tenant).hash, keys.hash);
  }
}

TEST(TenantKeysTest, TheHashSaysNothingOfTheSalt) {
  const TenantKeys keys = DeriveTenantKeys("secret", "tenant");
  EXPECT_EQ(keys.cache_salt.find(std::string(reinterpret_cast<const char*>(&keys.hash), 4)),
            std::string::npos);
}

}  // namespace
}  // namespace fathom::master
