#include "master/fleet/claim_round.h"

#include <gtest/gtest.h>

#include <optional>

namespace fathom::master {
namespace {

using Answer = WorkerSession::ClaimAnswer;

class ClaimRoundTest : public ::testing::Test {
 protected:
  ClaimRound Round(size_t asked) {
    return ClaimRound(asked, /*now_ns=*/0, [this](ClaimOutcome outcome) {
      EXPECT_FALSE(outcome_.has_value()) << "two ends";
      outcome_ = std::move(outcome);
    });
  }
  static Answer Found(uint32_t attempt) {
    return {.work = ClaimedWork{.worker = {"w", "1"}, .attempt = attempt}, .attempt = attempt};
  }

  std::optional<ClaimOutcome> outcome_;
};

TEST_F(ClaimRoundTest, EndsWithTheLastAnswer) {
  ClaimRound round = Round(3);
  EXPECT_TRUE(round.Answer({}));
  EXPECT_TRUE(round.Answer(Found(2)));
  EXPECT_FALSE(round.over());
  EXPECT_TRUE(round.Answer({.attempt = 7, .other_context = true}));
  ASSERT_TRUE(outcome_.has_value());
  EXPECT_EQ(outcome_->found.size(), 1u);
  EXPECT_EQ(outcome_->attempt, 7u);
  EXPECT_TRUE(outcome_->other_context);
}

TEST_F(ClaimRoundTest, NobodyToAskIsAnAnswer) {
  ClaimRound round = Round(0);
  EXPECT_TRUE(round.over());
  EXPECT_TRUE(outcome_.has_value());
}

TEST_F(ClaimRoundTest, ThoseWhoDoNotAnswerAreNotWaitedForLong) {
  ClaimRound round = Round(3);
  EXPECT_FALSE(round.Late(400'000'000));
  EXPECT_TRUE(round.Late(500'000'000));
  EXPECT_TRUE(round.Answer(Found(1)));
  EXPECT_TRUE(round.Late(100'000'000)) << "shorter, once it was found";
  round.End();
  EXPECT_EQ(outcome_->found.size(), 1u);
  EXPECT_FALSE(round.Answer(Found(2))) << "too late: nobody will look at it";
}

}  // namespace
}  // namespace fathom::master
