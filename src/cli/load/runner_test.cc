// The loops, against a transport that is slow or fails on purpose.

#include "cli/load/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <queue>
#include <thread>

#include "absl/time/clock.h"

namespace fathom::cli {
namespace {

// Answers each request after `delay`, one after another on a thread of its own unless `parallel`.
class SlowTransport final : public LoadTransport {
 public:
  explicit SlowTransport(absl::Duration delay, absl::Status status = absl::OkStatus())
      : delay_(delay), status_(std::move(status)) {}
  ~SlowTransport() override {
    CancelAll();
    for (std::thread& thread : threads_) thread.join();
  }
  void Send(const LoadItem& /*item*/, int64_t scheduled_ns, AnswerSink sink) override {
    sent_at_ns.push_back(Clock::Real()->MonotonicNs());
    threads_.emplace_back([this, scheduled_ns, sink = std::move(sink)] {
      const absl::Time end = absl::Now() + delay_;
      while (absl::Now() < end && !cancelled_) absl::SleepFor(absl::Milliseconds(1));
      const int64_t now_ns = Clock::Real()->MonotonicNs();
      AnswerMeter meter(scheduled_ns, std::nullopt);
      meter.OnSent(scheduled_ns);
      meter.OnPiece(now_ns, "a");
      sink(meter.Finish(cancelled_ ? absl::CancelledError("cancelled") : status_, now_ns));
    });
  }
  void CancelAll() override { cancelled_ = true; }

  std::vector<int64_t> sent_at_ns;

 private:
  const absl::Duration delay_;
  const absl::Status status_;
  std::atomic<bool> cancelled_ = false;
  std::vector<std::thread> threads_;
};

class RunnerTest : public testing::Test {
 protected:
  LoadOutcome Run(LoadTransport& transport, const RunnerOptions& options) {
    return RunLoad(workload_, options, Goodput(), transport, *Clock::Real(), shutdown_,
                   [this](const LoadProgress& progress) { last_ = progress; });
  }
  ShutdownSignal shutdown_;
  Workload workload_{WorkloadOptions()};
  LoadProgress last_;
};

TEST_F(RunnerTest, ClosedLoopKeepsItsConcurrency) {
  SlowTransport transport(absl::Milliseconds(20));
  const LoadOutcome outcome = Run(transport, {.requests = 12, .concurrency = 4});
  EXPECT_EQ(outcome.tally.ok(), 12);
  EXPECT_EQ(outcome.peak_concurrent, 4);
  EXPECT_GE(outcome.took, absl::Milliseconds(60));
  EXPECT_EQ(last_.done, 12);
  EXPECT_EQ(last_.running, 0);
}

TEST_F(RunnerTest, OpenLoopSendsWhenDueAndCountsFromThen) {
  SlowTransport transport(absl::Milliseconds(5));
  const LoadOutcome outcome = Run(transport, {.requests = 5, .next_arrival = [n = 0]() mutable {
                                                return absl::Milliseconds(30) * n++;
                                              }});
  ASSERT_EQ(outcome.tally.ok(), 5);
  const int64_t start_ns = transport.sent_at_ns.front();
  for (int i = 0; i < 5; ++i) {
    EXPECT_GE(transport.sent_at_ns[i] - start_ns, (30 * i - 1) * 1'000'000);
  }
  EXPECT_GE(outcome.took, absl::Milliseconds(120));
}

TEST_F(RunnerTest, WhatWaitsForTheCapIsNotForgiven) {
  SlowTransport transport(absl::Milliseconds(50));
  // All are due at once, but only one may run: the last one waits for three others.
  const LoadOutcome outcome =
      Run(transport,
          {.requests = 4, .concurrency = 1, .next_arrival = [] { return absl::ZeroDuration(); }});
  EXPECT_EQ(outcome.peak_concurrent, 1);
  EXPECT_GE(outcome.tally.e2e_ms().max, 190);
}

TEST_F(RunnerTest, DurationEndsTheSendingAndWaitsForWhatRuns) {
  SlowTransport transport(absl::Milliseconds(30));
  const LoadOutcome outcome =
      Run(transport, {.duration = absl::Milliseconds(100), .concurrency = 2});
  EXPECT_GE(outcome.tally.ok(), 4);
  EXPECT_LE(outcome.tally.ok(), 8);
  EXPECT_EQ(outcome.tally.failed(), 0);
}

TEST_F(RunnerTest, WarmupDoesNotCount) {
  SlowTransport transport(absl::Milliseconds(1));
  const LoadOutcome outcome = Run(transport, {.requests = 3, .concurrency = 1, .warmup = 5});
  EXPECT_EQ(outcome.tally.ok(), 3);
  EXPECT_EQ(transport.sent_at_ns.size(), 8);
}

TEST_F(RunnerTest, ClosedLoopDoesNotHammerAServerThatFails) {
  SlowTransport transport(absl::ZeroDuration(), absl::UnavailableError("refused"));
  const LoadOutcome outcome = Run(transport, {.requests = 3, .concurrency = 1});
  EXPECT_EQ(outcome.tally.failed(), 3);
  EXPECT_EQ(outcome.tally.errors().at("UNAVAILABLE").first, "refused");
  EXPECT_GE(transport.sent_at_ns[2] - transport.sent_at_ns[0], 190'000'000);
}

TEST_F(RunnerTest, InterruptEndsWhatRunsAndKeepsWhatThereIs) {
  SlowTransport transport(absl::Seconds(60));
  std::thread user([&] {
    absl::SleepFor(absl::Milliseconds(100));
    shutdown_.Request();
  });
  const LoadOutcome outcome = Run(transport, {.requests = 10, .concurrency = 2});
  user.join();
  EXPECT_TRUE(outcome.interrupted);
  EXPECT_EQ(outcome.tally.ok() + outcome.tally.failed(), 0);
  EXPECT_LT(outcome.took, absl::Seconds(30));
}

}  // namespace
}  // namespace fathom::cli
