#include "master/serving/quota_gate.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "master/serving/failure.h"
#include "master/state/migrations.h"

namespace fathom::master {
namespace {

class QuotaGateTest : public testing::Test {
 protected:
  static DatabaseOptions InMemory() {
    DatabaseOptions options;
    options.on_connect = [](SqlSession& session) { return Migrate(session, SchemaMigrations()); };
    return options;
  }
  static GenerationRequest Request(QuotaLimits quota) {
    GenerationRequest request;
    request.key_id = "k";
    request.quota = quota;
    request.stop.max_tokens = 100;
    return request;
  }

  Database database_{InMemory()};
  Quotas quotas_{&database_, [] { return 1; }};
};

TEST_F(QuotaGateTest, AnAnswerIsReservedInPart) {
  GenerationRequest request = Request({});
  request.n = 2;
  EXPECT_EQ(ReservedTokens(request, 7, 100), 7 + 2 * 100);
  EXPECT_EQ(ReservedTokens(request, 7, 100'000), 7 + 2 * kReservedAnswerTokens);
  EXPECT_EQ(ReservedTokens(request, 7, 0), 7 + 2 * kReservedAnswerTokens);
}

TEST_F(QuotaGateTest, WhoHasNoQuotaIsNotCounted) {
  EXPECT_TRUE(TakeQuota(nullptr, Request({.requests_per_minute = 1}), 1).ok());
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(TakeQuota(&quotas_, Request({}), 1).ok());
}

TEST_F(QuotaGateTest, WhoHasUsedItUpIsToldWhenToComeBack) {
  const GenerationRequest request = Request({.requests_per_minute = 6});
  ASSERT_TRUE(TakeQuota(&quotas_, request, 1).ok());
  const absl::Status refused = TakeQuota(&quotas_, request, 1).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "6 requests a minute")) << refused;
  ASSERT_TRUE(FailureRetryAfter(refused).has_value());
  EXPECT_GT(*FailureRetryAfter(refused), absl::Seconds(5));
  EXPECT_LE(*FailureRetryAfter(refused), absl::Seconds(11));
}

TEST_F(QuotaGateTest, WhoComesBackForTheRestIsLetInAndPaysLater) {
  GenerationRequest request = Request({.requests_per_minute = 6});
  ASSERT_TRUE(TakeQuota(&quotas_, request, 1).ok());
  EXPECT_FALSE(TakeQuota(&quotas_, request, 1).ok());
  request.resumption.have = {12};
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(TakeQuota(&quotas_, request, 1).ok()) << i;
  const absl::Status refused = TakeQuota(&quotas_, request, 1).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << "not for ever";
  request.resumption.have.clear();
  EXPECT_GT(*FailureRetryAfter(TakeQuota(&quotas_, request, 1).status()), absl::Seconds(40));
}

TEST_F(QuotaGateTest, TokensOfWhatDoesNotRunGoBack) {
  const GenerationRequest request = Request({.tokens_per_minute = 600});
  for (int i = 0; i < 5; ++i) {
    const auto charge = TakeQuota(&quotas_, request, 500);
    EXPECT_TRUE(charge.ok()) << charge.status();
  }
  const auto charge = TakeQuota(&quotas_, request, 500);
  ASSERT_TRUE(charge.ok());
  const absl::Status refused = TakeQuota(&quotas_, request, 1).status();
  EXPECT_TRUE(absl::StrContains(refused.message(), "600 tokens a minute")) << refused;
}

}  // namespace
}  // namespace fathom::master
