#include "master/api/resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

const Principal kAlice{.key_id = "alice", .role = "developer", .tenant = "acme"};
const Principal kBob{.key_id = "bob", .role = "developer", .tenant = "acme"};
const ResumeKeys kKeys("a secret of the cluster, 32 bytes");
constexpr std::string_view kBody = R"({"prompt":"hi","n":3})";
constexpr char kFresh[] = "0123456789abcdef0123456789abcdef";

absl::StatusOr<ResumePlan> Plan(const ResumeAsk& ask, const Principal& who = kAlice,
                                const ResumeKeys& keys = kKeys) {
  return PlanResumption(ask, keys, who, kFresh, 1'700'000'000, 3);
}

GenerationDelta Delta(int32_t choice, size_t num_tokens,
                      FinishReason finish = FinishReason::kNone) {
  return {
      .choice = choice, .attempt = 2, .tokens = std::vector<TokenId>(num_tokens), .finish = finish};
}

std::string TokenOf(const ResumePlan& plan) {
  ResumeCursor cursor(plan, 3);
  cursor.Advance(Delta(0, 17));
  cursor.Advance(Delta(2, 4, FinishReason::kStop));
  std::string out;
  cursor.AppendToken(out);
  return out;
}

TEST(ResumeTest, ATokenComesBackAsItWas) {
  const auto plan = Plan({.body = kBody});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->id, kFresh);
  EXPECT_FALSE(plan->look);
  const std::string token = TokenOf(*plan);
  EXPECT_TRUE(token.ends_with(".6553f100.2.17,-,4f")) << token;

  const ResumeKeys elsewhere("a secret of the cluster, 32 bytes");
  const auto back =
      Plan({.token = token, .hold = absl::Seconds(9), .body = kBody}, kAlice, elsewhere);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->id, kFresh);
  EXPECT_EQ(back->created, 1'700'000'000);
  EXPECT_TRUE(back->look && back->resumes && !back->usage_told);
  const Resumption resumption = back->For(0, 3);
  EXPECT_THAT(resumption.have, ::testing::ElementsAre(17, 0, 4));
  EXPECT_EQ(resumption.attempt, 2u);
  EXPECT_EQ(resumption.context, plan->proof);
  EXPECT_EQ(resumption.hold, absl::Seconds(9));
  EXPECT_TRUE(back->marks[2].ended && back->marks[0].begun && !back->marks[1].begun);
  EXPECT_THAT(back->For(2, 1).have, ::testing::ElementsAre(4));
  EXPECT_TRUE(Plan({.token = token + ".u", .body = kBody})->usage_told);
}

TEST(ResumeTest, ATokenSaysWhichModelWasDrawn) {
  auto plan = Plan({.body = kBody});
  ASSERT_TRUE(plan.ok());
  plan->model = 0x1a2b;
  const std::string token = TokenOf(*plan);
  EXPECT_TRUE(token.ends_with(".17,-,4f.m1a2b")) << token;
  const auto back = Plan({.token = token, .body = kBody});
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->model, 0x1a2bu);
  EXPECT_TRUE(Plan({.token = token + ".u", .body = kBody})->usage_told);
  for (const char* end : {".m1", ".u.u", ".x", "."}) {
    EXPECT_FALSE(Plan({.token = token + end, .body = kBody}).ok()) << end;
  }
  EXPECT_FALSE(Plan({.token = TokenOf(*Plan({.body = kBody})) + ".mxyz", .body = kBody}).ok());

  // Before the body is read: the same name and model, or nothing of it.
  const auto draw = [](const ResumeAsk& ask) { return DrawOf(ask, kKeys, kAlice, kFresh); };
  EXPECT_EQ(draw({.token = token}).model, 0x1a2bu);
  EXPECT_EQ(draw({.token = token}).id, kFresh);
  EXPECT_EQ(draw({.token = "rubbish"}).id, kFresh);
  EXPECT_EQ(draw({.idempotency_key = "k"}).id, Plan({.idempotency_key = "k", .body = kBody})->id);
  EXPECT_EQ(draw({}).model, std::nullopt);
}

TEST(ResumeTest, TheCursorKnowsWhatTheClientHas) {
  const auto plan = Plan({.token = TokenOf(*Plan({.body = kBody})), .body = kBody});
  ASSERT_TRUE(plan.ok());
  ResumeCursor cursor(*plan, 3);
  EXPECT_TRUE(cursor.Knows(Delta(0, 10)));
  EXPECT_FALSE(cursor.Knows(Delta(1, 0)));  // had not begun
  EXPECT_TRUE(cursor.Knows(Delta(0, 7)));
  EXPECT_FALSE(cursor.Knows(Delta(0, 0, FinishReason::kStop)));
  EXPECT_FALSE(cursor.Knows(Delta(0, 1)));
  EXPECT_TRUE(cursor.Knows(Delta(2, 4, FinishReason::kStop)));
  EXPECT_TRUE(cursor.Had(0).begun && !cursor.Had(1).begun);
  cursor.Advance(Delta(0, 1));
  std::string token;
  cursor.AppendToken(token, /*usage_told=*/true);
  EXPECT_TRUE(token.ends_with(".2.18,-,4f.u")) << token;
}

TEST(ResumeTest, OthersTokensAndOtherBodiesAreNotFound) {
  const std::string token = TokenOf(*Plan({.body = kBody}));
  const auto code = [](const absl::StatusOr<ResumePlan>& plan) { return plan.status().code(); };
  EXPECT_EQ(code(Plan({.token = token, .body = kBody}, kBob)), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(Plan({.token = token, .body = "{}"})), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(Plan({.token = token, .body = kBody}, kAlice, ResumeKeys("another secret"))),
            absl::StatusCode::kNotFound);
  std::string forged = token;
  forged[0] = forged[0] == '0' ? '1' : '0';
  EXPECT_EQ(code(Plan({.token = forged, .body = kBody})), absl::StatusCode::kNotFound);
}

TEST(ResumeTest, WhatIsNoTokenIsNotFound) {
  const std::string token = TokenOf(*Plan({.body = kBody}));
  const std::string head = token.substr(0, token.size() - std::string("17,-,4f").size());
  for (const std::string marks : {"", "17,-", "17,-,4f,5", "-1,-,4f", "17,-,f", "17,-,4x",
                                  "99999999999,-,4", "17,-,4f.v", "17,-,4f.u.u"}) {
    EXPECT_EQ(Plan({.token = head + marks, .body = kBody}).status().code(),
              absl::StatusCode::kNotFound)
        << marks;
  }
  const std::string id = token.substr(0, token.find(".2."));
  EXPECT_TRUE(Plan({.token = id + ".10000.17,-,4f", .body = kBody}).ok());
  for (const std::string attempt : {"10001", "ffffffff", "100000000", "-1", ""}) {
    EXPECT_FALSE(Plan({.token = absl::StrCat(id, ".", attempt, ".17,-,4f"), .body = kBody}).ok())
        << attempt;
  }
  for (const std::string text : {"x", ".....", "a.b.c.d.e", "....-,-,-"}) {
    EXPECT_FALSE(Plan({.token = text, .body = kBody}).ok()) << text;
  }
}

TEST(ResumeTest, AnIdempotencyKeyNamesTheRequestOfItsCaller) {
  const auto one = Plan({.idempotency_key = "k-1", .body = kBody});
  ASSERT_TRUE(one.ok());
  EXPECT_TRUE(one->look && !one->resumes);
  EXPECT_NE(one->id, kFresh);
  EXPECT_EQ(one->id.size(), 32u);
  EXPECT_EQ(Plan({.idempotency_key = "k-1", .body = "{}"})->id, one->id);
  EXPECT_NE(Plan({.idempotency_key = "k-1", .body = "{}"})->proof, one->proof);
  EXPECT_NE(Plan({.idempotency_key = "k-2", .body = kBody})->id, one->id);
  EXPECT_NE(Plan({.idempotency_key = "k-1", .body = kBody}, kBob)->id, one->id);
  EXPECT_FALSE(Plan({.idempotency_key = "k-1", .first_try = true, .body = kBody})->look);
  EXPECT_FALSE(Plan({.idempotency_key = "has space", .body = kBody}).ok());
  EXPECT_FALSE(Plan({.idempotency_key = std::string(256, 'x'), .body = kBody}).ok());
}

TEST(ResumeTest, HoldsAreBounded) {
  EXPECT_EQ(*ParseHold("30s"), absl::Seconds(30));
  EXPECT_EQ(*ParseHold("600"), absl::Minutes(10));
  for (const std::string text : {"", "s", "0", "-1s", "601", "1.5s", "30 s", "1m"}) {
    EXPECT_FALSE(ParseHold(text).ok()) << text;
  }
}

}  // namespace
}  // namespace fathom::master
