// A worker whose device fails in the middle of its work: its masters learn it, requests end, and
// the process ends by itself, non-zero, however much of it hangs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/strings.h"
#include "worker/command_line.h"
#include "worker/process_testing.h"

namespace fathom::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ProcessFailureTest : public ProcessTest {
 protected:
  void Start(const std::string& how, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = Arguments();
    arguments.insert(arguments.begin(), how);
    arguments.insert(arguments.end(), more.begin(), more.end());
    process_.emplace(std::move(arguments), Environment("FATHOM_FAILING_WORKER"));
  }
  // A request that runs when the device fails.
  std::shared_ptr<RecordingListener> Ask() {
    const auto worker = watch_->WaitForReady();
    EXPECT_TRUE(worker.has_value()) << process_->Log();
    if (!worker) return nullptr;
    return Submit(*worker, "r1", 2000);
  }
  // The reason why the request was lost.
  std::string WhyLost(RecordingListener& listener) {
    EXPECT_TRUE(listener.WaitUntil([&] { return !listener.lost.empty(); })) << process_->Log();
    EXPECT_THAT(listener.finishes, IsEmpty());
    return listener.lost.empty() ? "" : std::string(Message(listener.lost[0].second));
  }

  // Four steps gave four tokens; the fifth is on the device.
  void WaitForHang(RecordingListener& listener) {
    ASSERT_TRUE(listener.WaitUntil([&] { return listener.tokens.size() == 4; })) << process_->Log();
    absl::SleepFor(absl::Milliseconds(50));
  }

  std::optional<WorkerProcess> process_;
};

TEST_F(ProcessFailureTest, ALostDeviceEndsTheWorker) {
  Start("lost:5");
  const auto listener = Ask();
  ASSERT_NE(listener, nullptr);
  EXPECT_THAT(WhyLost(*listener), HasSubstr("engine"));
  EXPECT_EQ(process_->Wait(), kExitInternal);
  EXPECT_TRUE(watch_->WaitForEmpty());
  EXPECT_THAT(process_->Log(), HasSubstr("the device fell off the bus"));
}

TEST_F(ProcessFailureTest, AFaultOfTheProcessIsToldFromAKilling) {
  Start("poison:7");  // of the prompt that Submit sends
  const auto listener = Ask();
  ASSERT_NE(listener, nullptr);
  EXPECT_THAT(WhyLost(*listener), HasSubstr("engine is dead"));
  EXPECT_EQ(listener->kinds[0], master::LossKind::kCrash);
  EXPECT_EQ(process_->Wait(), -SIGABRT);
  EXPECT_THAT(process_->Log(), HasSubstr("crashing"));

  Start("poison:8000");
  const auto killed = Ask();
  ASSERT_NE(killed, nullptr);
  ASSERT_TRUE(killed->WaitUntil([&] { return killed->tokens.size() > 4; }));
  process_->Signal(SIGKILL);
  EXPECT_THAT(WhyLost(*killed), HasSubstr("broke"));
  EXPECT_EQ(killed->kinds[0], master::LossKind::kBroken);
}

// Not the next request, which would be lost with it.
TEST_F(ProcessFailureTest, ADeviceLostWhileIdleEndsTheWorker) {
  Start("idle");
  ASSERT_TRUE(watch_->WaitForReady().has_value()) << process_->Log();
  EXPECT_EQ(process_->Wait(), kExitInternal);
  EXPECT_TRUE(watch_->WaitForEmpty());
  EXPECT_THAT(process_->Log(), HasSubstr("the device fell off the bus"));
}

TEST_F(ProcessFailureTest, ADeviceThatDoesNotAnswerEndsTheWorker) {
  const absl::Time start = absl::Now();
  Start("hangs:5");
  const auto listener = Ask();
  ASSERT_NE(listener, nullptr);
  EXPECT_THAT(WhyLost(*listener), HasSubstr("hangs"));
  EXPECT_EQ(process_->Wait(), kExitInternal);
  EXPECT_TRUE(watch_->WaitForEmpty());
  EXPECT_THAT(process_->Log(), HasSubstr("the device does not answer"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

// While it drains, and with no time to drain.
TEST_F(ProcessFailureTest, EndingDoesNotWaitForADeviceThatDoesNotAnswer) {
  for (const char* drain_seconds : {"600", "0"}) {
    SCOPED_TRACE(drain_seconds);
    Start("hangs:5", {"--drain-seconds", drain_seconds});
    const auto listener = Ask();
    ASSERT_NE(listener, nullptr);
    WaitForHang(*listener);
    process_->Signal(SIGTERM);
    EXPECT_EQ(process_->Wait(), kExitInternal);
    EXPECT_THAT(process_->Log(), HasSubstr("the device does not answer"));
    EXPECT_TRUE(watch_->WaitForEmpty());  // the next one is not taken for this one
  }
}

TEST_F(ProcessFailureTest, ASignalEndsALoadingThatTakesLong) {
  Start("loads");
  absl::SleepFor(absl::Milliseconds(300));
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), kExitOk);
  EXPECT_THAT(process_->Log(), HasSubstr("stopped while loading"));
}

}  // namespace
}  // namespace fathom::worker
