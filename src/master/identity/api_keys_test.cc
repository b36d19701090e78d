#include "master/identity/api_keys.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/digest.h"

namespace fathom::master {
namespace {

std::string Line(const std::string& name, const std::string& key, const std::string& rest = "") {
  return absl::StrCat(name, ":", Sha256Hex(key), rest, "\n");
}

TEST(ApiKeysTest, AKeyBecomesItsPrincipal) {
  const auto keys = ApiKeys::Parse(absl::StrCat("# comment\n\n", Line("ann", "k1"),
                                                Line("bob", "k2", ":admin:team-a:3"), "   \n"));
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  const auto ann = keys->AuthenticateHeader("Bearer k1");
  ASSERT_TRUE(ann.ok());
  EXPECT_EQ(ann->key_id, "ann");
  EXPECT_EQ(ann->role, "developer");
  EXPECT_EQ(ann->tenant, "ann");
  EXPECT_EQ(ann->priority_ceiling, 0);
  const auto bob = keys->AuthenticateHeader("bearer  k2 ");
  ASSERT_TRUE(bob.ok());
  EXPECT_EQ(bob->role, "admin");
  EXPECT_EQ(bob->tenant, "team-a");
  EXPECT_EQ(bob->priority_ceiling, 3);
}

TEST(ApiKeysTest, AnythingElseIsUnauthenticated) {
  const auto keys = ApiKeys::Parse(Line("ann", "k1"));
  ASSERT_TRUE(keys.ok());
  EXPECT_FALSE(keys->AuthenticateHeader(std::nullopt).ok());
  EXPECT_FALSE(keys->AuthenticateHeader("").ok());
  EXPECT_FALSE(keys->AuthenticateHeader("Bearer ").ok());
  EXPECT_FALSE(keys->AuthenticateHeader("Bearer k2").ok());
  EXPECT_FALSE(keys->AuthenticateHeader("Basic k1").ok());
  EXPECT_FALSE(keys->AuthenticateHeader("k1").ok());
  // The hash in the file is not itself a key.
  EXPECT_FALSE(keys->AuthenticateHeader(absl::StrCat("Bearer ", Sha256Hex("k1"))).ok());
  EXPECT_FALSE(keys->Authenticate(std::string(4096, 'x')).ok());
}

TEST(ApiKeysTest, WeightsAreOptional) {
  const auto keys = ApiKeys::Parse(
      absl::StrCat("a:", Sha256Hex("ka"), ":developer:t:3:7\n", "b:", Sha256Hex("kb"), ":::2\n"));
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->Authenticate("ka")->weight, 7);
  EXPECT_EQ(keys->Authenticate("kb")->weight, 1);
}

TEST(ApiKeysTest, QuotasAreOptionalAndBounded) {
  const auto keys = ApiKeys::Parse(absl::StrCat(Line("a", "ka", ":::::60:100000"),
                                                Line("b", "kb", "::::::500"), Line("c", "kc")));
  ASSERT_TRUE(keys.ok()) << keys.status();
  const QuotaLimits both{.requests_per_minute = 60, .tokens_per_minute = 100'000};
  EXPECT_EQ(keys->Authenticate("ka")->quota, both);
  EXPECT_EQ(keys->Authenticate("ka")->weight, 1);
  EXPECT_EQ(keys->Authenticate("kb")->quota, QuotaLimits{.tokens_per_minute = 500});
  EXPECT_FALSE(keys->Authenticate("kc")->quota.any());
  for (const char* bad :
       {":::::0", ":::::-1", ":::::x", "::::::1.5", "::::::9999999999999", ":::::1:1:1"}) {
    EXPECT_FALSE(ApiKeys::Parse(Line("a", "ka", bad)).ok()) << bad;
  }
}

TEST(ApiKeysTest, OpenLetsEveryoneInAsOnePrincipal) {
  const ApiKeys keys = ApiKeys::Open();
  EXPECT_TRUE(keys.AuthenticateHeader(std::nullopt).ok());
  EXPECT_TRUE(keys.AuthenticateHeader("Basic whatever").ok());
  EXPECT_EQ(keys.AuthenticateHeader("Bearer any")->tenant, "open");
}

TEST(ApiKeysTest, BadLinesNameTheLineAndNotTheHash) {
  const std::string hash = Sha256Hex("k");
  for (const std::string& bad :
       {std::string("justaname"), absl::StrCat("sp ace:", hash), absl::StrCat(":", hash),
        std::string("n:abc"), absl::StrCat("n:", hash.substr(1), "Z"),
        absl::StrCat("n:", hash, ":root"), absl::StrCat("n:", hash, ":admin:t:10"),
        absl::StrCat("n:", hash, ":admin:t:x"), absl::StrCat("n:", hash, ":admin:t:1:more"),
        absl::StrCat("n:", hash, ":admin:t:1:0"), absl::StrCat("n:", hash, ":admin:t:1:1001"),
        absl::StrCat("n:", hash, ":admin:t:1:5:more"),
        absl::StrCat("n:", hash, ":admin:te nant")}) {
    const auto keys = ApiKeys::Parse(absl::StrCat("# one\n", bad, "\n"));
    ASSERT_FALSE(keys.ok()) << bad;
    EXPECT_TRUE(keys.status().message().find("line 2") != absl::string_view::npos) << bad;
    EXPECT_TRUE(keys.status().message().find(hash) == absl::string_view::npos) << bad;
  }
}

TEST(ApiKeysTest, TheSameKeyTwiceIsRefused) {
  EXPECT_FALSE(ApiKeys::Parse(absl::StrCat(Line("a", "k"), Line("b", "k"))).ok());
  EXPECT_FALSE(ApiKeys::Parse(absl::StrCat(Line("a", "k"), Line("a", "l"))).ok());
}

}  // namespace
}  // namespace fathom::master
