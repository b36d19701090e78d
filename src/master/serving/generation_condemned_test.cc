// What one master learns of requests that crash workers, the others know too.

#include <gtest/gtest.h>

#include "master/serving/failure.h"
#include "master/serving/generation_testing.h"

namespace fathom::master {
namespace {

class GenerationCondemnedTest : public GenerationTest {
 protected:
  // Another master of the cluster, or of another one.
  struct Other {
    explicit Other(const std::string& secret)
        : catalog(Catalog({TinyModel()})),
          serving({.cpu_threads = 1, .cluster_secret = secret}, &fleet, &catalog, Clock::Real(),
                  &random) {
      fleet.OnChange([this](FleetNews news) { serving.OnFleetChange(news); });
      fleet.SetWorkers({FakeFleet::ReadyWorker("w", *TinyModel())});
    }
    ~Other() {
      serving.Stop();
      fleet.Forget();
    }
    void Hear(const FakeFleet::Condemnations& news) {
      for (const auto& [name, remaining] : news) serving.OnCondemned(name, remaining);
    }
    FakeFleet fleet;
    SeededRandom random{2};
    LiveCatalog catalog;
    Serving serving;
  };

  void StartAt(Other& other) {
    sink_ = std::make_shared<RecordingSink>();
    asio::post(strand_,
               [this, &other] { generation_ = other.serving.Generate(Request(), strand_, sink_); });
  }
  FakeFleet::Sent RunUntilSentAt(Other& other, size_t index) {
    RunUntil([&] { return other.fleet.num_sent() > index; });
    return other.fleet.WaitSent(index);
  }
  void RunUntilOver() {
    RunUntil([this] { return sink_->ended; });
  }
  void CancelClient() {
    asio::post(strand_, [this] { generation_->Cancel(absl::CancelledError("gone")); });
    RunUntilOver();
  }
  static SubmissionOutput Tokens(uint32_t attempt, size_t count) {
    SubmissionOutput output = FakeFleet::Output(0, 0, std::vector<TokenId>(count, 300));
    output.attempt = attempt;
    return output;
  }

  Other there_{"shared by the cluster's masters"};
};

TEST_F(GenerationCondemnedTest, AnotherMasterRefusesItToo) {
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Crash());
  RunUntilSent(1).listener->OnWorkerLost(2, Crash());
  RunUntilEnd();
  const auto told = fleet_.condemned();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].first.size(), 32u);
  EXPECT_EQ(told[0].second, absl::Minutes(10));
  there_.Hear(told);
  StartAt(there_);
  RunUntilOver();
  EXPECT_EQ(FailureCode(sink_->status), "request_crashes_workers");
  EXPECT_EQ(there_.fleet.num_sent(), 0u);
  EXPECT_TRUE(there_.fleet.condemned().empty()) << "what was heard is not told again from here";
}

TEST_F(GenerationCondemnedTest, ItsNameIsAnotherOneInAnotherCluster) {
  Other stranger("the secret of others");
  for (Other* master : {&there_, &stranger}) {
    StartAt(*master);
    RunUntilSentAt(*master, 0).listener->OnWorkerLost(1, Crash());
    RunUntilSentAt(*master, 1).listener->OnWorkerLost(2, Crash());
    RunUntilOver();
    ASSERT_EQ(master->fleet.condemned().size(), 1u);
  }
  EXPECT_NE(there_.fleet.condemned()[0].first, stranger.fleet.condemned()[0].first);
}

TEST_F(GenerationCondemnedTest, ACrashThatItsClientDidNotWaitOutCountsElsewhere) {
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Crash());
  RunUntilSent(1);
  EXPECT_TRUE(fleet_.condemned().empty());
  CancelClient();
  ASSERT_EQ(fleet_.condemned().size(), 1u);
  EXPECT_EQ(fleet_.condemned()[0].second, absl::Minutes(1));
  there_.Hear(fleet_.condemned());
  StartAt(there_);
  RunUntilSentAt(there_, 0).listener->OnWorkerLost(1, Crash());
  RunUntilOver();
  EXPECT_EQ(FailureCode(sink_->status), "worker_lost");
  EXPECT_EQ(there_.fleet.num_sent(), 1u) << "two workers in all";
}

TEST_F(GenerationCondemnedTest, ACrashElsewhereThatIsToldOfMeanwhileCounts) {
  StartAt(there_);
  const auto sent = RunUntilSentAt(there_, 0);
  const auto there_sink = sink_;
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Crash());
  RunUntilSent(1);
  CancelClient();
  there_.Hear(fleet_.condemned());
  sent.listener->OnWorkerLost(1, Crash());
  RunUntil([&] { return there_sink->ended; });
  EXPECT_EQ(FailureCode(there_sink->status), "worker_lost");
}

TEST_F(GenerationCondemnedTest, ASuspectWhoseLikeRunsWellIsNoneAnyMore) {
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Crash());
  RunUntilSent(1);
  CancelClient();
  there_.Hear(fleet_.condemned());
  StartAt(there_);
  RunUntilSentAt(there_, 0).listener->OnOutput(Tokens(1, 8));
  RunUntil([this] { return !sink_->deltas.empty(); });
  there_.fleet.WaitSent(0).listener->OnWorkerLost(1, Crash());
  RunUntilSentAt(there_, 1);
  EXPECT_FALSE(sink_->ended) << "that is the first of its own";
  CancelClient();
  EXPECT_EQ(there_.fleet.condemned().size(), 1u);
}

TEST_F(GenerationCondemnedTest, OneThatHasRunOnIsNoSuspect) {
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Crash());
  RunUntilSent(1).listener->OnOutput(Tokens(2, 8));
  RunUntil([this] { return !sink_->deltas.empty(); });
  CancelClient();
  EXPECT_TRUE(fleet_.condemned().empty());
}

}  // namespace
}  // namespace fathom::master
