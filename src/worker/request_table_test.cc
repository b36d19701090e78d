#include "worker/request_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/random.h"

namespace fathom::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000'000;
constexpr LinkId kA = 1;
constexpr LinkId kB = 2;

RequestTable::Brief Brief(const std::string& id, uint32_t attempt = 1,
                          const std::string& model = "m") {
  return {.id = id,
          .attempt = attempt,
          .model = model,
          .choices = {{.index = 0, .tokens = {}}},
          .with_logprobs = false};
}

SequenceOutput Output(const std::string& id, std::vector<TokenId> tokens,
                      FinishReason finish = FinishReason::kNone, uint32_t attempt = 1) {
  SequenceOutput output;
  output.request_id = id;
  output.attempt = attempt;
  output.tokens = std::move(tokens);
  output.finish = finish;
  return output;
}

v1::Claim ClaimOf(const std::string& id, const std::string& context = "sealed") {
  v1::Claim claim;
  claim.set_request_id(id);
  claim.set_resume_context(context);
  return claim;
}

TEST(RequestTableTest, CostsBeyondMeasureDoNotOverflow) {
  RequestTable table({});
  for (const std::string id : {"r1", "r2", "r3"}) {
    table.Add(Brief(id), kA, std::numeric_limits<int64_t>::max(), "");
  }
  table.Add(Brief("r4"), kB, -5, "");
  EXPECT_GT(table.in_flight(kA), 0);
  EXPECT_EQ(table.in_flight(kB), 0);
}

TEST(RequestTableTest, OutputsGoToTheOwnerAndTheLastOneForgets) {
  RequestTable table({});
  RequestTable::Brief brief = Brief("r");
  brief.choices = {{.index = 0, .tokens = {}}, {.index = 1, .tokens = {}}};
  table.Add(brief, kA, 30, "");
  EXPECT_EQ(table.in_flight(kA), 30);

  EXPECT_FALSE(table.Record(Output("r", {1}, FinishReason::kStop))->last);
  // The choice has ended: what comes after its end is dropped.
  EXPECT_FALSE(table.Record(Output("r", {2})).has_value());
  SequenceOutput second = Output("r", {3}, FinishReason::kLength);
  second.choice = 1;
  const auto route = table.Record(second);
  ASSERT_TRUE(route.has_value());
  EXPECT_EQ(route->owner, kA);
  EXPECT_TRUE(route->last);
  EXPECT_EQ(table.in_flight(kA), 0);
  EXPECT_EQ(table.unfinished(), 0);
}

TEST(RequestTableTest, CostsAreKeptByModel) {
  RequestTable table({});
  table.Add(Brief("r1", 1, "m"), kA, 30, "");
  table.Add(Brief("r2", 1, "n"), kA, 20, "sealed");
  table.Add(Brief("r3", 1, "n"), kB, 5, "");
  EXPECT_EQ(table.in_flight(kA, "m"), 30);
  EXPECT_EQ(table.in_flight(kA, "n"), 20);
  EXPECT_EQ(table.in_flight(kB, "n"), 5);
  EXPECT_EQ(table.in_flight(kA), 50);
  EXPECT_EQ(table.unfinished("n"), 2);
  EXPECT_EQ(*table.ModelOf("r2"), "n");
  EXPECT_EQ(table.ModelOf("r4"), nullptr);
  table.Disown(kA, "a", 0);
  EXPECT_EQ(table.in_flight(kNoLink, "m"), 30);
  EXPECT_EQ(table.in_flight(kNoLink, "n"), 20);
  EXPECT_TRUE(table.Claim(ClaimOf("r2"), kB).answer.found());
  EXPECT_EQ(table.in_flight(kB, "n"), 25);
  table.Record(Output("r3", {1}, FinishReason::kStop));
  EXPECT_EQ(table.in_flight(kB, "n"), 20);
  EXPECT_EQ(table.unfinished("n"), 1);
  const std::vector<RequestTable::Ref> expired = table.Expire(100 * kSecond);
  ASSERT_EQ(expired.size(), 1u);
  EXPECT_EQ(expired[0].model, "m");
  EXPECT_EQ(table.unfinished("m"), 0);
}

TEST(RequestTableTest, AnAttemptOnAnotherEngineIsTold) {
  RequestTable table({});
  EXPECT_FALSE(table.Add(Brief("r", 1, "m"), kA, 30, "").elsewhere);
  const auto elsewhere = table.Add(Brief("r", 2, "n"), kB, 20, "").elsewhere;
  ASSERT_TRUE(elsewhere.has_value());
  EXPECT_EQ(elsewhere->model, "m");
  EXPECT_EQ(elsewhere->attempt, 1u);
  EXPECT_EQ(table.in_flight(kA), 0);
  EXPECT_FALSE(table.Add(Brief("r", 3, "n"), kB, 20, "").elsewhere);
  EXPECT_EQ(table.unfinished(), 1);
}

TEST(RequestTableTest, AHigherAttemptSupersedes) {
  RequestTable table({});
  table.Add(Brief("r", 1), kA, 30, "");
  table.Add(Brief("r", 2), kB, 20, "");
  EXPECT_EQ(table.in_flight(kA), 0);
  EXPECT_EQ(table.in_flight(kB), 20);
  EXPECT_FALSE(table.Record(Output("r", {1}, FinishReason::kCancelled, 1)).has_value());
  EXPECT_TRUE(table.Record(Output("r", {1}, FinishReason::kNone, 2)).has_value());
}

TEST(RequestTableTest, ADisownedRequestIsHeldForItsTimeThenGivenUp) {
  RequestTable table({.hold_ns = 10 * kSecond});
  table.Add(Brief("r"), kA, 30, "");
  table.Disown(kA, "master-a", 100);
  EXPECT_EQ(table.unowned_cost(), 30);
  EXPECT_EQ(table.Record(Output("r", {1}))->owner, kNoLink);
  EXPECT_THAT(table.Expire(10 * kSecond), IsEmpty());
  const auto gone = table.Expire(10 * kSecond + 100);
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(gone[0].id, "r");
  EXPECT_EQ(table.unowned_cost(), 0);
  EXPECT_EQ(table.held_bytes(), 0u);
}

TEST(RequestTableTest, WhatIsHeldIsBoundedInBytes) {
  RequestTable table({.held_bytes = 4000});
  table.Add(Brief("old"), kA, 1, "");
  table.Disown(kA, "master-a", 0);
  table.Add(Brief("new"), kB, 1, "");
  table.Disown(kB, "master-b", 1);
  EXPECT_THAT(table.Expire(2), IsEmpty());
  table.Record(Output("new", std::vector<TokenId>(900)));
  const auto gone = table.Expire(2);
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(gone[0].id, "old");
  EXPECT_LE(table.held_bytes(), 4000u);
}

TEST(RequestTableTest, AClaimHandsOverTheTokensAndWhatFollows) {
  RequestTable table({});
  RequestTable::Brief brief = Brief("r", 3);
  brief.choices[0].tokens = {9};  // it has migrated
  table.Add(brief, kA, 30, "sealed");
  SequenceOutput first = Output("r", {10, 11}, FinishReason::kNone, 3);
  first.cached_tokens = 16;
  table.Record(first);
  table.Disown(kA, "master-a", 0);
  table.Record(Output("r", {12}, FinishReason::kNone, 3));

  const auto handover = table.Claim(ClaimOf("r"), kB);
  EXPECT_TRUE(handover.answer.found());
  EXPECT_EQ(handover.answer.attempt(), 3u);
  ASSERT_EQ(handover.answer.outputs_size(), 1);
  EXPECT_EQ(handover.answer.outputs(0).first_index(), 0);
  EXPECT_THAT(handover.answer.outputs(0).tokens(), ElementsAre(9, 10, 11, 12));
  EXPECT_EQ(handover.answer.outputs(0).cached_tokens(), 16);
  EXPECT_THAT(handover.farewell, IsEmpty());
  EXPECT_EQ(table.in_flight(kB), 30);
  EXPECT_EQ(table.unowned_cost(), 0);
  EXPECT_EQ(table.held_bytes(), 0u);
  EXPECT_EQ(table.Record(Output("r", {13}, FinishReason::kNone, 3))->owner, kB);
  EXPECT_THAT(table.Expire(100 * kSecond), IsEmpty());
}

TEST(RequestTableTest, ARequestThatFinishedUnownedCanStillBeClaimed) {
  RequestTable table({});
  table.Add(Brief("r"), kA, 30, "sealed");
  table.Disown(kA, "master-a", 0);
  table.Record(Output("r", {10}, FinishReason::kStop));
  EXPECT_EQ(table.unowned_cost(), 0);
  EXPECT_EQ(table.unfinished(), 0);
  const auto handover = table.Claim(ClaimOf("r"), kB);
  EXPECT_TRUE(handover.answer.found());
  EXPECT_EQ(handover.answer.outputs(0).finish(), static_cast<int>(FinishReason::kStop));
  EXPECT_EQ(table.in_flight(kB), 0);
  EXPECT_FALSE(table.Claim(ClaimOf("r"), kB).answer.found());
}

TEST(RequestTableTest, AClaimFromALivingOwnerSaysFarewell) {
  RequestTable table({});
  table.Add(Brief("r"), kA, 30, "sealed");
  table.Record(Output("r", {10}));
  const auto handover = table.Claim(ClaimOf("r"), kB);
  EXPECT_TRUE(handover.answer.found());
  EXPECT_EQ(handover.previous, kA);
  ASSERT_EQ(handover.farewell.size(), 1u);
  EXPECT_EQ(handover.farewell[0].finish(), static_cast<int>(FinishReason::kCancelled));
  EXPECT_EQ(handover.farewell[0].first_index(), 1);
  EXPECT_TRUE(handover.farewell[0].taken_over());
  EXPECT_FALSE(handover.given_up.has_value());
}

TEST(RequestTableTest, WhatIsNotHereOrNotTheClaimersIsNotFound) {
  RequestTable table({});
  const auto claim = [&](const std::string& id, const std::string& context, LinkId owner) {
    return table.Claim(ClaimOf(id, context), owner).answer;
  };
  EXPECT_FALSE(claim("r", "sealed", kB).found());
  EXPECT_FALSE(claim("r", "sealed", kB).other_context());
  table.Add(Brief("r"), kA, 1, "sealed");
  EXPECT_FALSE(claim("r", "another", kB).found());
  EXPECT_TRUE(claim("r", "another", kB).other_context());
  EXPECT_FALSE(claim("r", "sealed", kA).found());  // it has it
  table.Add(Brief("plain"), kA, 1, "");
  EXPECT_FALSE(claim("plain", "", kB).found());
  EXPECT_EQ(table.in_flight(kA), 2);
}

TEST(RequestTableTest, ARequestWithLogprobsIsGivenUpInsteadOfHandedOver) {
  RequestTable table({});
  RequestTable::Brief brief = Brief("r", 2);
  brief.with_logprobs = true;
  table.Add(brief, kA, 1, "sealed");
  const auto handover = table.Claim(ClaimOf("r"), kB);
  EXPECT_FALSE(handover.answer.found());
  EXPECT_EQ(handover.answer.attempt(), 2u);
  ASSERT_TRUE(handover.given_up.has_value());
  EXPECT_EQ(handover.given_up->id, "r");
  EXPECT_EQ(handover.farewell.size(), 1u);
  EXPECT_EQ(table.unfinished(), 0);
}

TEST(RequestTableTest, ARequestOfAnotherModelIsGivenUpInsteadOfHandedOver) {
  RequestTable table({});
  table.Add(Brief("r", 2, "chat@1"), kA, 1, "sealed");
  v1::Claim claim = ClaimOf("r");
  claim.set_model("chat@2");
  const auto handover = table.Claim(claim, kB);
  EXPECT_FALSE(handover.answer.found());
  EXPECT_EQ(handover.answer.attempt(), 2u) << "what begins anew comes after it";
  ASSERT_TRUE(handover.given_up.has_value());
  table.Add(Brief("s", 1, "chat@2"), kA, 1, "sealed");
  claim.set_request_id("s");
  EXPECT_TRUE(table.Claim(claim, kB).answer.found());
}

TEST(RequestTableTest, AMasterThatComesBackHasGivenItsRequestsUp) {
  RequestTable table({});
  table.Add(Brief("a"), kA, 1, "");
  table.Add(Brief("b"), kB, 1, "");
  table.Disown(kA, "master-a", 0);
  table.Disown(kB, "master-b", 0);
  const auto gone = table.ForsakenBy("master-a");
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(gone[0].id, "a");
  EXPECT_EQ(table.unowned_cost(), 1);
}

// Whatever happens in whatever order, the books balance in the end.
TEST(RequestTableTest, TheBooksBalance) {
  SeededRandom random(3);
  RequestTable table({.hold_ns = 50, .held_bytes = 3000});
  const auto pick = [&](uint64_t below) { return random.Next() % below; };
  int64_t now = 0;
  for (int round = 0; round < 50000; ++round) {
    const std::string id = std::to_string(pick(20));
    const LinkId owner = 1 + pick(3);
    switch (pick(8)) {
      case 0:
      case 1:
        table.Add(Brief(id, static_cast<uint32_t>(1 + pick(3))), owner,
                  static_cast<int64_t>(pick(100)), std::string(pick(50), 'x'));
        break;
      case 2:
      case 3:
      case 4:
        table.Record(Output(id, std::vector<TokenId>(pick(4)),
                            pick(4) == 0 ? FinishReason::kStop : FinishReason::kNone,
                            static_cast<uint32_t>(1 + pick(3))));
        break;
      case 5:
        table.Disown(owner, std::to_string(owner), now);
        break;
      case 6:
        table.Claim(ClaimOf(id, std::string(pick(50), 'x')), owner);
        break;
      default:
        now += static_cast<int64_t>(pick(20));
        table.Expire(now);
        ASSERT_LE(table.held_bytes(), 3000u);
    }
    for (LinkId link = 0; link <= 3; ++link) ASSERT_GE(table.in_flight(link), 0);
  }
  for (LinkId link = 1; link <= 3; ++link) table.Disown(link, "gone", now);
  table.Expire(now + 1000);
  EXPECT_EQ(table.unowned_cost(), 0);
  EXPECT_EQ(table.held_bytes(), 0u);
  EXPECT_EQ(table.unfinished(), 0);
}

RequestTable::Brief Suspect(const std::string& id, uint32_t attempt = 1) {
  RequestTable::Brief brief = Brief(id, attempt);
  brief.fingerprint = std::string(32, id.front());
  brief.crashes = 1;
  return brief;
}

TEST(RequestTableTest, WhoIsSupersededByAnotherMasterIsTold) {
  RequestTable table({});
  table.Add(Brief("r", 1), kA, 5, "");
  const RequestTable::Superseded own = table.Add(Brief("r", 2), kA, 5, "");
  EXPECT_THAT(own.farewell, IsEmpty());
  const RequestTable::Superseded others = table.Add(Brief("r", 9), kB, 5, "");
  EXPECT_EQ(others.previous, kA);
  ASSERT_EQ(others.farewell.size(), 1u);
  EXPECT_EQ(others.farewell[0].attempt(), 2u);
  EXPECT_TRUE(others.farewell[0].taken_over());
  EXPECT_EQ(table.in_flight(kA), 0);
  EXPECT_EQ(table.in_flight(kB), 5);
}

TEST(RequestTableTest, WhatHasCrashedAWorkerIsAloneUntilItHasPutOutEightTokens) {
  RequestTable table({});
  table.Add(Brief("before"), kA, 1, "");
  EXPECT_TRUE(table.MayTakeOn("s"));
  table.Add(Suspect("s"), kA, 1, "");
  EXPECT_FALSE(table.MayTakeOn("other"));
  EXPECT_TRUE(table.MayTakeOn("s")) << "the next attempt of it";
  table.Record(Output("s", std::vector<TokenId>(7, 1)));
  EXPECT_FALSE(table.MayTakeOn("other"));
  table.Record(Output("before", std::vector<TokenId>(9, 1)));
  EXPECT_FALSE(table.MayTakeOn("other"));
  table.Record(Output("s", {1}));
  EXPECT_TRUE(table.MayTakeOn("other"));
}

TEST(RequestTableTest, TokensThatItCameWithCountForNothing) {
  RequestTable table({});
  RequestTable::Brief brief = Suspect("s");
  brief.choices[0].tokens = std::vector<TokenId>(100, 1);
  table.Add(brief, kA, 1, "");
  table.Record(Output("s", {1}));
  EXPECT_FALSE(table.MayTakeOn("other"));
}

TEST(RequestTableTest, OneThatWasAloneIsNotOnceItIsGone) {
  RequestTable table({});
  table.Add(Suspect("s"), kA, 1, "");
  table.Record(Output("s", {1}, FinishReason::kCancelled));
  EXPECT_TRUE(table.MayTakeOn("other"));
  table.Add(Suspect("t"), kA, 1, "");
  table.Add(Brief("t", 2), kA, 1, "");
  table.Record(Output("t", {}, FinishReason::kCancelled));
  EXPECT_TRUE(table.MayTakeOn("other")) << "its next attempt has nothing behind it";
  table.Add(Suspect("u"), kA, 1, "");
  table.Disown(kA, "a", 0);
  EXPECT_FALSE(table.MayTakeOn("other")) << "it runs without its master";
}

TEST(RequestTableTest, OneThatWasAloneAndIsGivenUpIsSoUntilItsEngineHasEndedIt) {
  RequestTable table({});
  RequestTable::Brief brief = Suspect("s");
  brief.choices = {{.index = 0, .tokens = {}}, {.index = 1, .tokens = {}}};
  table.Add(brief, kA, 1, "");
  table.Disown(kA, "a", 0);
  EXPECT_EQ(table.Expire(std::numeric_limits<int64_t>::max()).size(), 1u);
  EXPECT_FALSE(table.MayTakeOn("other")) << "the step under way has it";
  EXPECT_TRUE(table.MayTakeOn("s")) << "its next attempt";
  const v1::LastWords words = table.LastWords(1);
  ASSERT_EQ(words.runs_size(), 1);
  EXPECT_EQ(words.runs(0).fingerprint(), brief.fingerprint);
  EXPECT_EQ(words.runs(0).crashes(), 1);
  table.Add(Suspect("s", 2), kA, 1, "");
  EXPECT_EQ(table.LastWords(9).runs_size(), 1) << "by one name";
  table.Record(Output("s", {}, FinishReason::kCancelled, 2));

  EXPECT_FALSE(table.Record(Output("s", {1})));
  EXPECT_FALSE(table.Record(Output("s", {}, FinishReason::kCancelled)));
  EXPECT_FALSE(table.Record(Output("other", {}, FinishReason::kCancelled)));
  EXPECT_FALSE(table.MayTakeOn("other")) << "its second choice";
  SequenceOutput second = Output("s", {}, FinishReason::kCancelled);
  second.choice = 1;
  EXPECT_FALSE(table.Record(second));
  EXPECT_TRUE(table.MayTakeOn("other"));
  EXPECT_EQ(table.LastWords(1).runs_size(), 0);
}

TEST(RequestTableTest, EachEngineThatHadALoneOneHasToLetGoOfIt) {
  RequestTable table({});
  RequestTable::Brief first = Suspect("s");
  table.Add(first, kA, 1, "sealed");
  RequestTable::Brief second = Suspect("s", 2);
  second.model = "another";
  EXPECT_TRUE(table.Add(second, kA, 1, "sealed").elsewhere);
  v1::Claim claim = ClaimOf("s");
  claim.set_model("a third");
  EXPECT_TRUE(table.Claim(claim, kB).given_up);
  table.Record(Output("s", {}, FinishReason::kCancelled, 2));
  EXPECT_FALSE(table.MayTakeOn("other")) << "the engine of its first attempt has it yet";
  EXPECT_EQ(table.LastWords(9).runs_size(), 1);
  table.Record(Output("s", {}, FinishReason::kCancelled, 1));
  EXPECT_TRUE(table.MayTakeOn("other"));
}

TEST(RequestTableTest, LastWordsNameWhatRunsTheLoneOneFirst) {
  RequestTable table({});
  for (const std::string id : {"a", "b", "c", "d"}) {
    RequestTable::Brief brief = Suspect(id);
    brief.crashes = 0;
    table.Add(brief, kA, 1, "");
  }
  table.Add(Brief("nameless"), kA, 1, "");
  table.Record(Output("d", {1}, FinishReason::kStop));
  table.Add(Suspect("s"), kB, 1, "");
  const v1::LastWords words = table.LastWords(100);
  ASSERT_EQ(words.runs_size(), 4);
  EXPECT_EQ(words.runs(0).fingerprint(), std::string(32, 's'));
  EXPECT_EQ(words.runs(0).crashes(), 1);
  EXPECT_EQ(words.runs(1).crashes(), 0);
  EXPECT_EQ(table.LastWords(1).runs_size(), 1);
  EXPECT_EQ(table.LastWords(1).runs(0).fingerprint(), std::string(32, 's'));
  table.Record(Output("s", std::vector<TokenId>(8, 1)));
  const v1::LastWords later = table.LastWords(100);
  for (const v1::LastWords::Run& run : later.runs()) EXPECT_EQ(run.crashes(), 0);
}

}  // namespace
}  // namespace fathom::worker
