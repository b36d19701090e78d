#include "master/state/migrations.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "master/state/state_testing.h"

namespace fathom::master {
namespace {

class MigrationsTest : public StateTest {
 protected:
  static Migration Notes(int version, int min_reader) {
    return {.version = version,
            .min_reader = min_reader,
            .description = "notes",
            .statements = {"CREATE TABLE notes (id BIGINT PRIMARY KEY)"}};
  }
  static std::vector<Migration> Newer(int min_reader) {
    std::vector<Migration> newer = SchemaMigrations();
    newer.push_back(Notes(newer.back().version + 1, min_reader));
    return newer;
  }
  static int64_t Count(SqlSession& session, std::string_view sql) {
    const auto rows = session.Query(sql, 1);
    EXPECT_TRUE(rows.ok()) << rows.status();
    return rows.ok() ? rows->at(0).integer(0) : -1;
  }
};

TEST_F(MigrationsTest, ASecondTimeChangesNothing) {
  auto session = ConnectMigrated();
  ASSERT_TRUE(session
                  ->Execute("INSERT INTO leases (name, holder, epoch, expires_at) "
                            "VALUES ('x', 'y', 7, 0)")
                  .ok());
  EXPECT_TRUE(Migrate(*session, SchemaMigrations()).ok());
  EXPECT_EQ(Count(*session, "SELECT epoch FROM leases"), 7);
  EXPECT_EQ(Count(*session, "SELECT COUNT(*) FROM schema_version"),
            static_cast<int64_t>(SchemaMigrations().size()));
  EXPECT_GT(Count(*session, "SELECT applied_at FROM schema_version WHERE version = 1"),
            1'700'000'000'000);
}

TEST_F(MigrationsTest, AFailedOneLeavesNothing) {
  auto session = Connect();
  std::vector<Migration> broken = Newer(1);
  broken.back().statements.emplace_back("CREATE TABLE");
  EXPECT_FALSE(Migrate(*session, broken).ok());
  EXPECT_FALSE(session->Query("SELECT COUNT(*) FROM leases", 1).ok());
  EXPECT_TRUE(Migrate(*session, SchemaMigrations()).ok());
}

// A rolling upgrade, and a rollback.
TEST_F(MigrationsTest, AnOlderMasterWorksWithANewerSchemaThatAllowsIt) {
  auto session = Connect();
  ASSERT_TRUE(Migrate(*session, Newer(1)).ok());
  EXPECT_TRUE(Migrate(*session, SchemaMigrations()).ok());
}

TEST_F(MigrationsTest, AnOlderMasterRefusesANewerSchemaThatDoesNot) {
  auto session = Connect();
  const int newest = SchemaMigrations().back().version;
  ASSERT_TRUE(Migrate(*session, Newer(newest + 1)).ok());
  const absl::Status status = Migrate(*session, SchemaMigrations());
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

TEST_F(MigrationsTest, ThreadsThatMigrateAtOnceAgree) {
  std::vector<std::thread> threads;
  std::vector<absl::Status> statuses(8);
  for (auto& status : statuses) {
    threads.emplace_back([&] {
      auto session = SqlSession::Connect(url_, absl::Seconds(10));
      status = session.ok() ? Migrate(**session, Newer(1)) : session.status();
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& status : statuses) EXPECT_TRUE(status.ok()) << status;
  auto session = Connect();
  EXPECT_EQ(Count(*session, "SELECT COUNT(*) FROM schema_version"),
            static_cast<int64_t>(SchemaMigrations().size()) + 1);
}

TEST_F(MigrationsTest, ProcessesThatMigrateAtOnceAgree) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      auto session = SqlSession::Connect(url_, absl::Seconds(10));
      _exit(session.ok() && Migrate(**session, SchemaMigrations()).ok() ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
}

}  // namespace
}  // namespace fathom::master
