// The worker process as it is: started, linked to a real LinkServer, asked, told to go, killed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "worker/command_line.h"
#include "worker/process_testing.h"

namespace fathom::worker {
namespace {

using master::WorkerInfo;
using ::testing::IsEmpty;

TEST_F(ProcessTest, ServesTheTinyModelAndLeavesWhenAsked) {
  const absl::Time start = absl::Now();
  WorkerProcess process(Arguments());
  const auto worker = watch_->WaitForReady();
  ASSERT_TRUE(worker.has_value()) << process.Log();
  std::printf("process start to ready: %.0f ms\n", absl::ToDoubleMilliseconds(absl::Now() - start));
  EXPECT_EQ(worker->models.at(0).name, "tiny");
  EXPECT_EQ(worker->models.at(0).vocab_size, 4096);
  EXPECT_EQ(worker->models.at(0).config_digest.size(), 64u);
  EXPECT_EQ(worker->models.at(0).tokenizer_digest.size(), 64u);

  const auto first = Submit(*worker, "r1", 20);
  const auto second = Submit(*worker, "r2", 20);
  ASSERT_TRUE(first->WaitUntil([&] { return !first->finishes.empty(); })) << process.Log();
  ASSERT_TRUE(second->WaitUntil([&] { return !second->finishes.empty(); }));
  EXPECT_EQ(first->finishes[0], FinishReason::kLength);
  EXPECT_EQ(first->tokens.size(), 20u);
  EXPECT_EQ(first->tokens, second->tokens);

  // What runs when the signal comes still ends well.
  const auto running = Submit(*worker, "r3", 100);
  ASSERT_TRUE(running->WaitUntil([&] { return !running->tokens.empty(); }));
  process.Signal(SIGTERM);
  ASSERT_TRUE(running->WaitUntil([&] { return !running->finishes.empty(); }));
  EXPECT_EQ(running->finishes[0], FinishReason::kLength);
  EXPECT_THAT(running->lost, IsEmpty());
  EXPECT_EQ(process.Wait(), kExitOk) << process.Log();
  EXPECT_TRUE(watch_->WaitForEmpty());
}

TEST_F(ProcessTest, AKilledWorkerIsLostAndItsSuccessorServes) {
  std::optional<WorkerProcess> process(Arguments());
  auto worker = watch_->WaitForReady();
  ASSERT_TRUE(worker.has_value()) << process->Log();
  const auto listener = Submit(*worker, "r1", 4000);
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->tokens.empty(); }));
  process->Signal(SIGKILL);
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->lost.empty(); }));
  EXPECT_EQ(process->Wait(), -SIGKILL);

  process.emplace(Arguments());
  worker = watch_->WaitForReady();
  ASSERT_TRUE(worker.has_value()) << process->Log();
  const auto again = Submit(*worker, "r1", 5);
  ASSERT_TRUE(again->WaitUntil([&] { return !again->finishes.empty(); }));
  EXPECT_EQ(again->tokens.size(), 5u);
}

// Every core computes; the link must go on all the same, or the master takes the worker for dead
// after a second of silence.
TEST_F(ProcessTest, AWorkerWithoutAnIdleCoreStaysAlive) {
  std::vector<std::string> arguments = Arguments();
  *(std::find(arguments.begin(), arguments.end(), "--threads") + 1) = "0";  // one a core
  WorkerProcess process(arguments);
  const auto worker = watch_->WaitForReady();
  ASSERT_TRUE(worker.has_value()) << process.Log();
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  for (int i = 0; i < 16; ++i) {
    listeners.push_back(Submit(*worker, "r" + std::to_string(i), 4000));
  }
  const absl::Time end = absl::Now() + absl::Seconds(4);
  while (absl::Now() < end) {
    for (const auto& listener : listeners) {
      size_t seen = 0;
      ASSERT_TRUE(listener->WaitUntil([&] {
        seen = listener->tokens.size();
        return !listener->lost.empty() || !listener->tokens.empty();
      }));
      ASSERT_THAT(listener->lost, IsEmpty()) << "after " << seen << " tokens";
    }
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_TRUE(
      watch_->WaitForWorker([](const WorkerInfo& info) { return info.figures.running > 0; }));
}

TEST_F(ProcessTest, ItEndsWithItsParent) {
  std::string command = Environment("FATHOM_BIN_DIR") + "/fathom-worker";
  for (const std::string& argument : Arguments()) command += " " + argument;
  const pid_t shell = fork();
  if (shell == 0) {
    // The second command keeps the shell from replacing itself by the first.
    execl("/bin/sh", "sh", "-c", (command + "; true").c_str(), nullptr);
    _exit(127);
  }
  EXPECT_TRUE(watch_->WaitForReady().has_value());
  kill(shell, SIGKILL);
  waitpid(shell, nullptr, 0);
  EXPECT_TRUE(watch_->WaitForEmpty());
}

TEST_F(ProcessTest, CancelEndsALongRequest) {
  WorkerProcess process(Arguments());
  const auto worker = watch_->WaitForReady();
  ASSERT_TRUE(worker.has_value()) << process.Log();
  const auto listener = Submit(*worker, "r1", 4000);
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->tokens.empty(); }));
  server_->Cancel(worker->key, "r1", 1, {});
  EXPECT_TRUE(watch_->WaitForWorker([](const WorkerInfo& info) {
    return info.figures.running == 0 && info.figures.waiting == 0 &&
           info.figures.free_blocks == info.figures.total_blocks;
  }));
}

TEST_F(ProcessTest, MistakesHaveTheirExitCodes) {
  const auto exit_code = [](std::vector<std::string> arguments) {
    WorkerProcess process(std::move(arguments));
    return process.Wait();
  };
  EXPECT_EQ(exit_code({"--help"}), kExitOk);
  EXPECT_EQ(exit_code({"--nonsense"}), kExitUsage);
  EXPECT_EQ(exit_code({"--master", "127.0.0.1:1", "--dummy-weights", "llama-3.1-8b"}), kExitConfig);
  const std::vector<std::string> base = {"--master", "127.0.0.1:1", "--metrics-port", "-1"};
  const auto with = [&base](std::initializer_list<std::string> more) {
    std::vector<std::string> all = base;
    all.insert(all.end(), more);
    return all;
  };
  EXPECT_EQ(exit_code(with({"--model", "/nowhere/at/all"})), kExitNoModel);
  EXPECT_EQ(exit_code(with({"--model", TinyModel(), "--kv-cache-bytes", "1000"})), kExitConfig);
  EXPECT_EQ(exit_code({"--master", "192.0.2.1:5000", "--model", TinyModel(), "--metrics-port", "-1",
                       "--kv-cache-bytes", "100000000"}),
            kExitConfig);
}

}  // namespace
}  // namespace fathom::worker
