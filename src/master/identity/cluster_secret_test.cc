#include "master/identity/cluster_secret.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

namespace fathom::master {
namespace {

class ClusterSecretTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::string> Read(const std::string& text, mode_t mode = 0600) {
    std::ofstream(path_, std::ios::trunc) << text;
    chmod(path_.c_str(), mode);
    return ReadClusterSecret(path_);
  }
  ~ClusterSecretTest() override { std::remove(path_.c_str()); }

  const std::string path_ = std::filesystem::path(::testing::TempDir()) /
                            ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(ClusterSecretTest, IsTheFilesTextWithoutTheLinesEnd) {
  const std::string text(40, 'x');
  EXPECT_EQ(*Read(text + "\n"), text);
  EXPECT_EQ(*Read(text, 0440), text);  // as Kubernetes mounts secrets for a group
}

TEST_F(ClusterSecretTest, ShortLongAndOpenOnesAreRefused) {
  EXPECT_EQ(Read(std::string(31, 'x') + "\n").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Read(std::string(5000, 'x')).ok());
  EXPECT_EQ(Read(std::string(40, 'x'), 0604).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReadClusterSecret("/nonexistent/secret").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace fathom::master
