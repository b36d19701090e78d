#include "cli/chaos/postgresql.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace fathom::cli {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;

class FindPostgresqlTest : public ::testing::Test {
 protected:
  FindPostgresqlTest() : folder_(::testing::TempDir() + "/find-postgresql") {
    fs::remove_all(folder_);
  }
  ~FindPostgresqlTest() override { fs::remove_all(folder_); }

  std::string Install(const std::string& place, std::initializer_list<const char*> programs) {
    const fs::path bin = folder_ / place;
    fs::create_directories(bin);
    for (const char* program : programs) {
      std::ofstream(bin / program) << "x";
      fs::permissions(bin / program, fs::perms::owner_all);
    }
    return bin.string();
  }
  std::string Versions() const { return (folder_ / "versions").string(); }

  const fs::path folder_;
};

TEST_F(FindPostgresqlTest, ThePathComesFirstThenTheNewestVersion) {
  EXPECT_THAT(std::string(FindPostgresql("", Versions()).status().message()),
              HasSubstr("need PostgreSQL"));
  Install("versions/9.6/bin", {"postgres", "initdb"});
  const std::string newest = Install("versions/15/bin", {"postgres", "initdb"});
  Install("versions/17/bin", {"postgres"});
  EXPECT_EQ(FindPostgresql("", Versions()).value_or(""), newest);
  const std::string tools = Install("tools", {"psql", "initdb"});
  EXPECT_EQ(FindPostgresql(tools, Versions()).value_or(""), newest);
  const std::string own = Install("own", {"postgres", "initdb"});
  EXPECT_EQ(FindPostgresql(absl::StrCat(tools, ":", own), Versions()).value_or(""), own);
}

TEST(PostgresqlTest, OnlyThisServersWordCounts) {
  const std::string starting = "42\n/data\n1700000000\n5432\n/data\n\n 12 3\nstarting\n";
  const std::string ready = "42\n/data\n1700000000\n5432\n/data\n\n 12 3\nready   \n";
  EXPECT_TRUE(SaysReady(ready, 42));
  EXPECT_FALSE(SaysReady(ready, 43)) << "of one that was killed";
  EXPECT_FALSE(SaysReady(starting, 42));
  EXPECT_FALSE(SaysReady("42\n/data\n", 42));
  EXPECT_FALSE(SaysReady("", 42));
}

}  // namespace
}  // namespace fathom::cli
