#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "cli/cluster/child_process.h"
#include "cli/cluster/restart_policy.h"
#include "cli/cluster/state_dir.h"
#include "common/digest.h"
#include "common/files.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ClusterTest : public ::testing::Test {
 protected:
  ClusterTest() {
    std::string folder = ::testing::TempDir() + "fathom-cli-XXXXXX";
    folder_ = mkdtemp(folder.data());
  }
  ~ClusterTest() override { std::filesystem::remove_all(folder_); }

  static void Await(ChildProcess& child) {
    while (!child.Poll()) usleep(1000);
  }

  std::string folder_;
};

TEST_F(ClusterTest, StateFolderAndKeyAreForTheirOwnerAlone) {
  const auto state = StateDir::Open(folder_ + "/a/b");
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->ReadKey().status().code(), absl::StatusCode::kNotFound);
  SeededRandom random(1);
  const std::string key = *state->EnsureKey(random);
  EXPECT_THAT(key, StartsWith("fathom-"));
  EXPECT_EQ(key.size(), 7u + 64u);
  EXPECT_EQ(*state->EnsureKey(random), key);
  EXPECT_EQ(*ReadFile(state->keys_file(), 1000), "local:" + Sha256Hex(key) + ":admin\n");
  for (const auto& [path, mode] : {std::pair{state->path(), 0700u}, {state->File("key"), 0600u}}) {
    struct stat info = {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777u, mode) << path;
  }
}

TEST_F(ClusterTest, StateFolderThatOthersReadIsRefused) {
  chmod(folder_.c_str(), 0755);
  EXPECT_EQ(StateDir::Open(folder_).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(ClusterTest, ClusterRunsWhileItsLockIsHeld) {
  const StateDir state = *StateDir::Open(folder_ + "/s");
  EXPECT_TRUE(absl::IsUnavailable(state.RunningCluster().status()));
  auto lock = *state.TryLock();
  ASSERT_TRUE(state.WriteCluster({.pid = 12, .http_url = "u", .model = "m", .open = true}).ok());
  const ClusterInfo info = *state.RunningCluster();
  EXPECT_EQ(info.pid, 12);
  EXPECT_EQ(info.http_url, "u");
  EXPECT_EQ(info.model, "m");
  EXPECT_TRUE(info.open);
  const auto second = state.TryLock();
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(Message(second.status())), HasSubstr("process 12"));
  lock.reset();
  EXPECT_TRUE(absl::IsUnavailable(state.RunningCluster().status()));
  EXPECT_TRUE(state.TryLock().ok());
}

TEST_F(ClusterTest, DamagedClusterFileIsSaid) {
  const StateDir state = *StateDir::Open(folder_ + "/s");
  const auto lock = *state.TryLock();
  ASSERT_TRUE(WriteFileAtomically(state.File("cluster.json"), "{").ok());
  EXPECT_EQ(state.RunningCluster().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ClusterTest, ChildsEndAndOutputAreKept) {
  const std::string log = folder_ + "/log";
  auto child = ChildProcess::Start({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, log);
  ASSERT_TRUE(child.ok()) << child.status();
  Await(*child);
  EXPECT_EQ(child->Poll().value(), "exit code 3");
  EXPECT_FALSE(child->ended_well());
  EXPECT_EQ(*ReadFile(log, 1000), "out\nerr\n");
  child->Signal(SIGTERM);  // to nobody
}

TEST_F(ClusterTest, ChildTakesSignalsThoughOursAreBlocked) {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  auto child = ChildProcess::Start({"/bin/sleep", "60"}, folder_ + "/log");
  pthread_sigmask(SIG_UNBLOCK, &blocked, nullptr);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_FALSE(child->Poll());
  EXPECT_EQ(getpgid(child->pid()), child->pid()) << "Ctrl-C must not reach it";
  child->Signal(SIGTERM);
  Await(*child);
  EXPECT_EQ(child->Poll().value(), "signal 15");
}

TEST_F(ClusterTest, ChildDiesWithItsOwner) {
  pid_t pid = 0;
  {
    auto child = ChildProcess::Start({"/bin/sleep", "60"}, folder_ + "/log");
    ASSERT_TRUE(child.ok());
    pid = child->pid();
    const ChildProcess moved = *std::move(child);
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(ClusterTest, ChildHasNoneOfOurFiles) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);  // open in programs that are started, unless somebody sees to it
  auto child = ChildProcess::Start({"/bin/sleep", "60"}, folder_ + "/log");
  ASSERT_TRUE(child.ok());
  close(ends[1]);
  char byte = 0;
  EXPECT_EQ(read(ends[0], &byte, 1), 0) << "the other end is still open";
  close(ends[0]);
}

TEST_F(ClusterTest, MissingProgramIsAnError) {
  const auto child = ChildProcess::Start({"/nonexistent/program"}, folder_ + "/log");
  EXPECT_EQ(child.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(Message(child.status())), HasSubstr("/nonexistent/program"));
}

TEST(RestartPolicyTest, PausesDoubleThenItGivesUp) {
  RestartPolicy policy;
  absl::Duration pause = RestartPolicy::kFirstPause;
  for (int i = 0; i < RestartPolicy::kCrashesMax; ++i) {
    EXPECT_EQ(policy.OnCrash(absl::Seconds(1)), std::min(pause, RestartPolicy::kPauseMax));
    pause *= 2;
  }
  EXPECT_EQ(policy.OnCrash(absl::Seconds(1)), std::nullopt);
}

TEST(RestartPolicyTest, GoodRunForgetsTheCrashesBefore) {
  RestartPolicy policy;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(policy.OnCrash(RestartPolicy::kGoodRun), RestartPolicy::kFirstPause);
  }
}

}  // namespace
}  // namespace fathom::cli
