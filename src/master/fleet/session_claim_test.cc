// What a session makes of the answers to its claims.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "master/fleet/session_testing.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {
namespace {

using ::testing::ElementsAre;

class SessionClaimTest : public testing::Test {
 protected:
  SessionClaimTest() {
    EXPECT_TRUE(session_.BindData(std::make_shared<OpenSink<v1::MasterData>>()));
    session_.Claim({.request_id = "r", .model = "m", .resume_context = "sealed", .cost = 7},
                   claimer_, [this](WorkerSession::ClaimAnswer answer) {
                     EXPECT_FALSE(answer_) << "answered twice";
                     answer_ = std::move(answer);
                   });
  }
  static v1::Hello Hello() {
    v1::Hello hello;
    hello.set_worker_id("w");
    hello.set_incarnation(std::string(16, 'a'));
    return hello;
  }
  void Send(uint32_t attempt) {
    Submission submission;
    submission.request_id = "r";
    submission.attempt = attempt;
    submission.cost = 30;
    submission.choices = {{0, {}}};
    EXPECT_TRUE(session_.Submit(submission, sender_, 1).ok());
  }
  void AnswerFound(uint32_t attempt) {
    v1::WorkerData data;
    v1::Claimed* claimed = data.add_claimed();
    claimed->set_request_id("r");
    claimed->set_found(true);
    claimed->set_attempt(attempt);
    *claimed->add_outputs() = Output(attempt, 0, 5);
    EXPECT_TRUE(session_.OnData(data, 2).ok());
  }
  static v1::StepOutput Output(uint32_t attempt, int32_t first_index, TokenId token) {
    v1::StepOutput output;
    output.set_request_id("r");
    output.set_attempt(attempt);
    output.set_first_index(first_index);
    output.add_tokens(token);
    return output;
  }
  void Hear(const v1::StepOutput& output) {
    v1::WorkerData data;
    *data.add_outputs() = output;
    EXPECT_TRUE(session_.OnData(data, 3).ok());
  }

  std::optional<WorkerSession::ClaimAnswer> answer_;
  std::shared_ptr<RecordingListener> claimer_ = std::make_shared<RecordingListener>();
  std::shared_ptr<RecordingListener> sender_ = std::make_shared<RecordingListener>();
  WorkerSession session_{
      Hello(),          "session", absl::Milliseconds(250),
      absl::Seconds(3), 1,         std::make_shared<OpenSink<v1::MasterControl>>(),
      [](FleetNews) {}};
};

TEST_F(SessionClaimTest, WhatIsFoundIsTheClaimersFromThenOn) {
  AnswerFound(4);
  ASSERT_TRUE(answer_ && answer_->work);
  EXPECT_EQ(session_.Info().in_flight_cost, 7);
  Hear(Output(4, 1, 6));
  EXPECT_THAT(claimer_->tokens, ElementsAre(6));
}

// The wait for the answer was over, and the request was sent there anew: whoever waits for
// that must hear of it.
TEST_F(SessionClaimTest, AnAnswerThatComesLateDoesNotUnseatWhatWasSentSince) {
  for (const uint32_t found : {4u, 6u}) {
    SCOPED_TRACE(found);
    if (found == 4) Send(5);
    if (found == 6) {
      answer_.reset();
      session_.Claim({.request_id = "r"}, claimer_,
                     [this](WorkerSession::ClaimAnswer answer) { answer_ = std::move(answer); });
    }
    AnswerFound(found);
    ASSERT_TRUE(answer_);
    EXPECT_FALSE(answer_->work);
    EXPECT_EQ(answer_->attempt, found) << "the next attempt is to be above it";
    EXPECT_EQ(session_.Info().in_flight_cost, 30);
  }
  Hear(Output(5, 0, 9));
  EXPECT_THAT(sender_->tokens, ElementsAre(9));
  session_.Die({LossKind::kBroken, absl::UnavailableError("gone")});
  EXPECT_THAT(sender_->lost, ElementsAre(5));
  EXPECT_THAT(claimer_->lost, ElementsAre());
}

TEST_F(SessionClaimTest, AClaimOfAWorkerThatDiesIsAnswered) {
  session_.Die({LossKind::kBroken, absl::UnavailableError("gone")});
  ASSERT_TRUE(answer_);
  EXPECT_FALSE(answer_->work);
}

}  // namespace
}  // namespace fathom::master
