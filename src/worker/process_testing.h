#pragma once

// For tests of whole processes: a worker as a child, and a fixture with a real LinkServer for it.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/files.h"
#include "master/fleet/link_server.h"
#include "worker/link_testing.h"

namespace fathom::worker {

inline std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

inline std::string TinyModel() { return Environment("FATHOM_SOURCE_DIR") + "/models/tiny"; }

// A fathom-worker under test; killed when it goes out of scope.
class WorkerProcess {
 public:
  explicit WorkerProcess(std::vector<std::string> arguments,
                         std::string program = Environment("FATHOM_BIN_DIR") + "/fathom-worker")
      : log_(testing::TempDir() + "/fathom_worker_" + std::to_string(getpid()) + ".log") {
    arguments.insert(arguments.begin(), std::move(program));
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
    auto server = master::LinkServer::Start({.insecure = true});
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
            "--insecure-link",
            "--exit-with-parent"};
  }
  std::shared_ptr<RecordingListener> Submit(const master::WorkerInfo& worker, const std::string& id,
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

  std::unique_ptr<master::LinkServer> server_;
  std::optional<FleetWatch> watch_;
};

}  // namespace fathom::worker
