// Requests that a worker does not take on in time go on elsewhere.

#include <gtest/gtest.h>

#include "master/serving/generation_testing.h"
#include "master/serving/serving_metrics.h"

namespace fathom::master {
namespace {

class GenerationUntakenTest : public GenerationTest {
 protected:
  GenerationUntakenTest() : GenerationTest(/*migration=*/true, absl::Milliseconds(20)) {
    fleet_.SetWorkers({Worker("a"), Worker("b")});
    moves_before_ = ServingMetrics::Get().untaken.Value();
  }
  // Heard later than it was before, whenever that was.
  WorkerInfo Worker(const std::string& id) {
    WorkerInfo worker = FakeFleet::ReadyWorker(id, *TinyModel());
    worker.heard_ns = Clock::Real()->MonotonicNs();
    return worker;
  }
  double moves() const { return ServingMetrics::Get().untaken.Value() - moves_before_; }
  void RunFor(absl::Duration time) {
    const absl::Time end = absl::Now() + time;
    RunUntil([end] { return absl::Now() >= end; });
  }
  void EndWell(const FakeFleet::Sent& sent) {
    SubmissionOutput output = FakeFleet::Output(0, 0, {300}, FinishReason::kStop);
    output.attempt = sent.submission.attempt;
    sent.listener->OnOutput(std::move(output));
    RunUntilEnd();
    EXPECT_TRUE(sink_->status.ok()) << sink_->status;
    EXPECT_EQ(sink_->usage.completion_tokens, 1);
  }

  double moves_before_ = 0;
};

TEST_F(GenerationUntakenTest, OneThatIsNotTakenOnGoesToAnotherWorker) {
  Start(Request());
  const auto first = RunUntilSent(0);
  const auto second = RunUntilSent(1);
  EXPECT_NE(first.worker, second.worker);
  EXPECT_EQ(second.submission.attempt, 2u);
  EXPECT_EQ(fleet_.WaitCancelled(0).request_id, second.submission.request_id);
  EXPECT_EQ(moves(), 1);
  second.listener->OnAccepted(2);
  // What the first one says when it goes on is of no interest.
  first.listener->OnAccepted(1);
  first.listener->OnRejected(1, absl::ResourceExhaustedError("full"), absl::ZeroDuration());
  first.listener->OnOutput(FakeFleet::Output(0, 0, {301}));
  first.listener->OnWorkerLost(1, Crash());
  RunFor(absl::Milliseconds(100));
  EXPECT_EQ(fleet_.num_sent(), 2u);
  EXPECT_TRUE(sink_->deltas.empty());
  EndWell(second);
}

TEST_F(GenerationUntakenTest, OneThatIsTakenOnStaysHoweverLongItTakes) {
  Start(Request());
  const auto sent = RunUntilSent(0);
  sent.listener->OnAccepted(1);
  RunFor(absl::Milliseconds(150));
  EXPECT_EQ(fleet_.num_sent(), 1u);
  EXPECT_EQ(moves(), 0);
  EndWell(sent);
}

TEST_F(GenerationUntakenTest, WhereThereIsNobodyElseItStays) {
  fleet_.SetWorkers({Worker("a")});
  Start(Request());
  const auto sent = RunUntilSent(0);
  RunFor(absl::Milliseconds(150));
  EXPECT_EQ(fleet_.num_sent(), 1u);
  EXPECT_EQ(fleet_.num_cancelled(), 0u);
  fleet_.SetWorkers({Worker("a"), Worker("b")});
  EXPECT_EQ(RunUntilSent(1).worker.id, "b");
}

TEST_F(GenerationUntakenTest, AWorkerIsAvoidedUntilItIsHeardAgain) {
  Start(Request());
  const auto first = RunUntilSent(0);
  const auto second = RunUntilSent(1);
  RunFor(absl::Milliseconds(200));
  EXPECT_EQ(fleet_.num_sent(), 2u) << "the other one is avoided";
  fleet_.SetWorkers({Worker("a"), Worker("b")});
  EXPECT_EQ(RunUntilSent(2).worker, first.worker);
  EXPECT_EQ(moves(), 2);
}

TEST_F(GenerationUntakenTest, ALateAnswerWhileItWaitsForAWorkerChangesNothing) {
  Start(Request());
  const auto first = RunUntilSent(0);
  asio::post(strand_, [&] {
    // It is moved, and before it is placed anew the first one's refusal comes in.
    first.listener->OnRejected(1, absl::ResourceExhaustedError("full"), absl::ZeroDuration());
  });
  const auto second = RunUntilSent(1);
  second.listener->OnAccepted(second.submission.attempt);
  RunFor(absl::Milliseconds(100));
  EXPECT_EQ(fleet_.num_sent(), 2u);
  EndWell(second);
}

// Each time it is more patient, so that a fleet that is only slow is not asked ever more.
TEST_F(GenerationUntakenTest, ItIsMovedEverMoreSeldom) {
  fleet_.SetWorkers({Worker("a"), Worker("b"), Worker("c"), Worker("d"), Worker("e")});
  Start(Request());
  std::vector<absl::Time> sent;
  for (size_t i = 0; i < 5; ++i) {
    RunUntilSent(i);
    sent.push_back(absl::Now());
  }
  EXPECT_GE(sent[3] - sent[2], absl::Milliseconds(38));
  EXPECT_GE(sent[4] - sent[3], absl::Milliseconds(78));
  RunFor(absl::Milliseconds(100));
  EXPECT_EQ(moves(), 4) << "all are avoided";
}

// The way to it is cut, not the way back.
TEST_F(GenerationUntakenTest, AWorkerThatIsHeardAndTakesNothingOnIsAvoidedAllTheSame) {
  Start(Request());
  RunUntilSent(0);
  fleet_.SetWorkers({Worker("a"), Worker("b")});
  RunUntilSent(1);
  fleet_.SetWorkers({Worker("a"), Worker("b")});
  RunFor(absl::Milliseconds(150));
  EXPECT_EQ(fleet_.num_sent(), 2u);
}

}  // namespace
}  // namespace fathom::master
