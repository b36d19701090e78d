// What runs alone, and what the last words of workers make of requests.

#include <gtest/gtest.h>

#include "master/serving/failure.h"
#include "master/serving/generation_testing.h"

namespace fathom::master {
namespace {

absl::Status Alone() { return absl::AbortedError("a request that must run alone is here"); }

class GenerationQuarantineTest : public GenerationTest {
 protected:
  GenerationQuarantineTest() { SetWorkers({"a", "b"}); }

  void SetWorkers(const std::vector<std::string>& ids, int64_t credit = 1 << 20) {
    std::vector<WorkerInfo> workers;
    for (const std::string& id : ids) {
      workers.push_back(FakeFleet::ReadyWorker(id, *TinyModel(), credit));
    }
    fleet_.SetWorkers(std::move(workers));
  }
  static SubmissionOutput Tokens(const Submission& submission, int32_t first, size_t count,
                                 FinishReason finish = FinishReason::kNone) {
    SubmissionOutput output = FakeFleet::Output(0, first, std::vector<TokenId>(count, 300), finish);
    output.attempt = submission.attempt;
    return output;
  }
  void EndWell(const FakeFleet::Sent& sent, int32_t first = 0) {
    sent.listener->OnOutput(Tokens(sent.submission, first, 1, FinishReason::kStop));
    RunUntilEnd();
    EXPECT_TRUE(sink_->status.ok()) << sink_->status;
  }
  // The work's name, from one that runs and ends.
  std::string NameOfWork() {
    Start(Request());
    const auto sent = RunUntilSent(fleet_.num_sent());
    EndWell(sent);
    return sent.submission.fingerprint;
  }
};

TEST_F(GenerationQuarantineTest, ASubmissionTellsTheCrashesBehindIt) {
  Start(Request());
  const auto first = RunUntilSent(0);
  EXPECT_EQ(first.submission.fingerprint.size(), 32u);
  EXPECT_EQ(first.submission.crashes, 0);
  first.listener->OnWorkerLost(1, Crash());
  const auto second = RunUntilSent(1);
  EXPECT_EQ(second.submission.fingerprint, first.submission.fingerprint);
  EXPECT_EQ(second.submission.crashes, 1);
  second.listener->OnOutput(Tokens(second.submission, 0, 8));
  RunUntil([this] { return !sink_->deltas.empty(); });
  second.listener->OnWorkerLost(2, Broken());
  const auto third = RunUntilSent(2);
  EXPECT_EQ(third.submission.crashes, 0) << "it has got past the place";
  EndWell(third, 8);
}

// Losses that tell nothing make it run alone among this master's, no more: it is not condemned.
TEST_F(GenerationQuarantineTest, WhatMerelyLostItsWorkersIsNotAloneAtTheWorker) {
  Start(Request());
  for (uint32_t attempt = 1; attempt <= 3; ++attempt) {
    RunUntilSent(attempt - 1).listener->OnWorkerLost(attempt, Broken());
  }
  const auto sent = RunUntilSent(3);
  EXPECT_EQ(sent.submission.crashes, 0);
  EndWell(sent);
}

TEST_F(GenerationQuarantineTest, WhereAnotherMastersRunsAloneItGoesElsewhere) {
  Start(Request());
  const auto first = RunUntilSent(0);
  first.listener->OnRejected(1, Alone(), absl::Seconds(1));
  const auto second = RunUntilSent(1);
  EXPECT_NE(second.worker, first.worker);
  EndWell(second);
}

TEST_F(GenerationQuarantineTest, ItWaitsHoweverOftenItMeetsOneAndNoLongerEachTime) {
  SetWorkers({"a"});
  const absl::Time begin = absl::Now();
  Start(Request());
  constexpr int kTimes = 12;  // doubled from 10 ms on, they would take many seconds
  for (int i = 0; i < kTimes; ++i) {
    RunUntilSent(i).listener->OnRejected(i + 1, Alone(), absl::Milliseconds(10));
  }
  EndWell(RunUntilSent(kTimes));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
}

// Two masters' suspects have met: the one that was not taken on has lost nothing by that.
TEST_F(GenerationQuarantineTest, ASuspectThatIsNotTakenOnKeepsItsCount) {
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Crash());
  const auto second = RunUntilSent(1);
  second.listener->OnRejected(2, Alone(), absl::Seconds(1));
  const auto third = RunUntilSent(2);
  EXPECT_EQ(third.submission.crashes, 1);
  // The other one's worker crashes, and this one is on none of it.
  second.listener->OnWorkerLost(2, Crash());
  EndWell(third);
}

TEST_F(GenerationQuarantineTest, WhatWasOnACrashedWorkerIsSuspectWhereItComesNext) {
  const std::string name = NameOfWork();
  serving_.OnLastWords({{.fingerprint = name, .crashes = 0}});
  Start(Request());
  const auto sent = RunUntilSent(1);
  EXPECT_EQ(sent.submission.crashes, 1);
  sent.listener->OnWorkerLost(1, Crash());
  RunUntilEnd();
  EXPECT_EQ(FailureCode(sink_->status), "worker_lost") << "two workers in all";
  EXPECT_EQ(fleet_.num_sent(), 2u);
}

TEST_F(GenerationQuarantineTest, WhatCrashedAWorkerAloneIsCondemnedByTheWorkersWord) {
  const std::string name = NameOfWork();
  serving_.OnLastWords({{.fingerprint = name, .crashes = 1}});
  Start(Request());
  RunUntilEnd();
  EXPECT_EQ(FailureCode(sink_->status), "request_crashes_workers");
  EXPECT_EQ(fleet_.num_sent(), 1u);
  // Its master may have gone with the worker.
  ASSERT_EQ(fleet_.condemned().size(), 1u);
  EXPECT_EQ(fleet_.condemned()[0], std::pair(name, absl::Minutes(10)));
}

TEST_F(GenerationQuarantineTest, OneThatWaitsIsRefusedWhenItsLikeIsCondemned) {
  const std::string name = NameOfWork();
  SetWorkers({"a"}, /*credit=*/0);
  Start(Request());
  RunUntil([this] { return serving_.queue_length() == 1; });
  serving_.OnLastWords({{.fingerprint = name, .crashes = 1}});
  SetWorkers({"a"});
  RunUntilEnd();
  EXPECT_EQ(FailureCode(sink_->status), "request_crashes_workers");
  EXPECT_EQ(fleet_.num_sent(), 1u);
}

TEST_F(GenerationQuarantineTest, OneThatWaitsRunsAloneWhenItsLikeWasInACrash) {
  const std::string name = NameOfWork();
  SetWorkers({"a"}, /*credit=*/0);
  Start(Request());
  RunUntil([this] { return serving_.queue_length() == 1; });
  serving_.OnLastWords({{.fingerprint = name, .crashes = 0}});
  SetWorkers({"a"});
  const auto sent = RunUntilSent(1);
  EXPECT_EQ(sent.submission.crashes, 1);
  EXPECT_EQ(sent.submission.attempt, 1u) << "the place that it gave back was no attempt";
  EndWell(sent);
}

TEST_F(GenerationQuarantineTest, OneThatWaitsAsASuspectIsNoneOnceItsLikeHasRunWell) {
  const std::string name = NameOfWork();
  serving_.OnLastWords({{.fingerprint = name, .crashes = 0}});
  SetWorkers({"a"});
  Start(Request());
  const auto other = RunUntilSent(1);
  EXPECT_EQ(other.submission.crashes, 1);
  const auto other_sink = sink_;
  Start(Request());
  RunUntil([this] { return serving_.queue_length() == 1; });
  other.listener->OnOutput(Tokens(other.submission, 0, 8));
  const auto sent = RunUntilSent(2);
  EXPECT_EQ(sent.submission.crashes, 0);
  other.listener->OnOutput(Tokens(other.submission, 8, 1, FinishReason::kStop));
  RunUntil([&] { return other_sink->ended; });
  EndWell(sent);
}

// What many ask for is on every worker: beside the cause twice, it must not be taken for it.
TEST_F(GenerationQuarantineTest, TwoCrashesBesideTheCauseDoNotCondemnWhatManyAskFor) {
  Start(Request());
  const auto sent = RunUntilSent(0);
  serving_.OnLastWords({{.fingerprint = sent.submission.fingerprint, .crashes = 0}});
  sent.listener->OnWorkerLost(1, Crash());
  const auto again = RunUntilSent(1);
  EXPECT_EQ(again.submission.crashes, 1) << "one: the worker's word of it is no second";
  EndWell(again);
  EXPECT_TRUE(fleet_.condemned().empty());
}

TEST_F(GenerationQuarantineTest, ALikeThatLeavesTellsNothingNew) {
  const std::string name = NameOfWork();
  serving_.OnLastWords({{.fingerprint = name, .crashes = 0}});
  Start(Request());
  RunUntilSent(1);
  asio::post(strand_, [this] { generation_->Cancel(absl::CancelledError("gone")); });
  RunUntilEnd();
  EXPECT_TRUE(fleet_.condemned().empty());
}

}  // namespace
}  // namespace fathom::master
