// What a worker's last words make of the submissions that its master has there.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "master/fleet/condemned_news.h"
#include "master/fleet/session_testing.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {
namespace {

using ::testing::ElementsAre;

std::string Name(char c) { return std::string(32, c); }

class LastWordsTest : public testing::Test {
 protected:
  LastWordsTest() {
    EXPECT_TRUE(session_.BindData(std::make_shared<OpenSink<v1::MasterData>>()));
    for (const char c : {'p', 'i'}) {
      Submission submission;
      submission.request_id = std::string(1, c);
      submission.fingerprint = Name(c);
      submission.choices = {{0, {}}};
      EXPECT_TRUE(session_.Submit(submission, c == 'p' ? ran_ : under_way_, 1).ok());
    }
  }
  static v1::Hello Hello() {
    v1::Hello hello;
    hello.set_worker_id("w");
    hello.set_incarnation(std::string(16, 'a'));
    return hello;
  }
  void Die(LossKind kind) { session_.Die({kind, absl::UnavailableError("gone")}); }

  std::shared_ptr<RecordingListener> ran_ = std::make_shared<RecordingListener>();
  std::shared_ptr<RecordingListener> under_way_ = std::make_shared<RecordingListener>();
  WorkerSession session_{
      Hello(),          "session", absl::Milliseconds(250),
      absl::Seconds(3), 1,         std::make_shared<OpenSink<v1::MasterControl>>(),
      [](FleetNews) {}};
};

// Else a suspect that was on its way when another one crashed the worker would have been in two
// crashes.
TEST_F(LastWordsTest, WhatWasOnlyUnderWayHasMetNoCrash) {
  v1::LastWords words;
  words.add_runs()->set_fingerprint(Name('p'));
  words.add_runs()->set_fingerprint(Name('x'));  // another master's
  session_.OnLastWords(words);
  Die(LossKind::kCrash);
  EXPECT_THAT(ran_->kinds, ElementsAre(LossKind::kCrash));
  EXPECT_THAT(under_way_->kinds, ElementsAre(LossKind::kLeft));
}

TEST_F(LastWordsTest, WithoutThemAllHaveMetIt) {
  Die(LossKind::kCrash);
  EXPECT_THAT(ran_->kinds, ElementsAre(LossKind::kCrash));
  EXPECT_THAT(under_way_->kinds, ElementsAre(LossKind::kCrash));
}

TEST_F(LastWordsTest, WhereTheyWereCutShortAllHaveMetIt) {
  v1::LastWords words;
  for (int i = 0; i < kLastWordsMax; ++i) words.add_runs()->set_fingerprint(Name('x'));
  session_.OnLastWords(words);
  Die(LossKind::kCrash);
  EXPECT_THAT(ran_->kinds, ElementsAre(LossKind::kCrash));
  EXPECT_THAT(under_way_->kinds, ElementsAre(LossKind::kCrash));
}

}  // namespace
}  // namespace fathom::master
