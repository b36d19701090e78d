// The worker process as it is: started, linked to a real LinkServer, asked, told to go, killed.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "common/files.h"
#include "common/strings.h"
#include "master/fleet/link_server.h"
#include "worker/command_line.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using master::LinkServer;
using master::WorkerInfo;
using ::testing::IsEmpty;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string TinyModel() { return Environment("FATHOM_SOURCE_DIR") + "/models/tiny"; }

// A fathom-worker under test; killed when it goes out of scope.
class WorkerProcess {
 public:
  explicit WorkerProcess(std::vector<std::string> arguments)
      : log_(testing::TempDir() + "/fathom_worker_" + std::to_string(getpid()) + ".log") {
    arguments.insert(arguments.begin(), Environment("FATHOM_BIN_DIR") + "/fathom-worker");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      const int log = open(log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(log, STDOUT_FILENO);
      dup2(log, STDERR_FILENO);
      unsetenv("MASTER_NODE");
      execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~WorkerProcess() {
    if (pid_ > 0) {
      Signal(SIGKILL);
      Wait();
    }
  }

  void Signal(int number) const { kill(pid_, number); }
  // The exit code, or the negative number of the signal.
  int Wait() {
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string Log() const { return ReadFile(log_, 1 << 20).value_or(""); }

 private:
  const std::string log_;
  pid_t pid_ = -1;
};

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() {
    auto server = LinkServer::Start({});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    watch_.emplace(*server_);
  }
  ~ProcessTest() override { server_->Stop(); }

  std::vector<std::string> Arguments() const {
    return {"--master",
            "127.0.0.1:" + std::to_string(server_->port()),
            "--model",
            TinyModel(),
            "--id",
            "w1",
            "--metrics-port",
            "0",
            "--threads",
            "1",
            "--kv-cache-bytes",
            std::to_string(256 << 20),
            "--exit-with-parent"};
  }
  std::shared_ptr<RecordingListener> Submit(const WorkerInfo& worker, const std::string& id,
                                            int32_t max_tokens) {
    master::Submission submission = TestSubmission(id);
    submission.prompt = {5, 6, 7, 8};
    submission.sampling.temperature = 0;
    submission.stop.max_tokens = max_tokens;
    submission.stop.ignore_eos = true;
    auto listener = std::make_shared<RecordingListener>();
    const absl::Status status = server_->Submit(worker.key, submission, listener);
    EXPECT_TRUE(status.ok()) << status;
    return listener;
  }

  std::unique_ptr<LinkServer> server_;
  std::optional<FleetWatch> watch_;
};

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
  EXPECT_TRUE(watch_->WaitForWorker([](const WorkerInfo& info) { return info.running > 0; }));
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
    return info.running == 0 && info.waiting == 0 && info.free_blocks == info.total_blocks;
  }));
}

TEST_F(ProcessTest, MistakesHaveTheirExitCodes) {
  const auto exit_code = [](std::vector<std::string> arguments) {
    WorkerProcess process(std::move(arguments));
    return process.Wait();
  };
  EXPECT_EQ(exit_code({"--help"}), kExitOk);
  EXPECT_EQ(exit_code({"--nonsense"}), kExitUsage);
  EXPECT_EQ(exit_code({"--master", "127.0.0.1:1"}), kExitConfig);
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
