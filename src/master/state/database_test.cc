#include "master/state/database.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <future>

#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "master/state/state_testing.h"

namespace fathom::master {
namespace {

class DatabaseTest : public StateTest {
 protected:
  static absl::Status One(SqlSession& session) {
    ASSIGN_OR_RETURN(const auto rows, session.Query("SELECT 1", 1));
    return rows.size() == 1 && rows[0].integer(0) == 1 ? absl::OkStatus()
                                                       : absl::InternalError("not 1");
  }
};

TEST_F(DatabaseTest, RunsJobsAndTellsHowTheyEnd) {
  Database database(Options());
  EXPECT_TRUE(database.Run(absl::Seconds(10), One).ok());
  EXPECT_TRUE(database.up());
  const absl::Status bad = database.Run(absl::Seconds(10), [](SqlSession& session) {
    return session.Execute("SELECT nothing FROM nowhere");
  });
  EXPECT_EQ(bad.code(), absl::StatusCode::kInternal) << bad;
  EXPECT_TRUE(database.Run(absl::Seconds(10), One).ok())
      << "the connection outlives a bad statement";
}

TEST_F(DatabaseTest, BindsEveryTypeAndRepeatsNames) {
  auto session = ConnectMigrated();
  const std::string evil = "x'); DROP TABLE leases; --";
  const SqlParams params{{"key", evil}, {"level", 0.1}, {"at", int64_t{1} << 53}};
  ASSERT_TRUE(session
                  ->Execute("INSERT INTO quotas (key_id, kind, level, taken, updated_at) "
                            "VALUES (:key, :key, :level, :level, :at)",
                            params)
                  .ok());
  const auto rows = session->Query(
      "SELECT key_id, kind, level, updated_at, {greatest}(level, 2.5) FROM quotas "
      "WHERE key_id = :key",
      5, {{"key", evil}});
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 1U);
  EXPECT_EQ(rows->at(0).text(1), evil);
  EXPECT_DOUBLE_EQ(rows->at(0).real(2), 0.1);
  EXPECT_EQ(rows->at(0).integer(3), int64_t{1} << 53);
  EXPECT_DOUBLE_EQ(rows->at(0).real(4), 2.5);
}

TEST_F(DatabaseTest, ItsClockIsNow) {
  auto session = Connect();
  const auto rows = session->Query("SELECT {now}", 1);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_NEAR(static_cast<double>(rows->at(0).integer(0)),
              static_cast<double>(absl::ToUnixMillis(absl::Now())), 2000);
}

TEST_F(DatabaseTest, ATransactionThatDoesNotEndWellLeavesNothing) {
  auto session = ConnectMigrated();
  {
    auto transaction = SqlTransaction::Begin(*session);
    ASSERT_TRUE(transaction.ok());
    ASSERT_TRUE(session
                    ->Execute("INSERT INTO leases (name, holder, epoch, expires_at) "
                              "VALUES ('x', 'y', 1, 0)")
                    .ok());
  }
  const auto rows = session->Query("SELECT name FROM leases", 1);
  ASSERT_TRUE(rows.ok());
  EXPECT_TRUE(rows->empty());
}

TEST_F(DatabaseTest, AFullQueueRefusesAtOnce) {
  DatabaseOptions options = Options();
  options.threads = 1;
  options.queue_max = 1;
  Database database(options);
  std::promise<void> started;
  std::promise<void> go;
  std::atomic<int> done{0};
  database.Post(
      absl::Seconds(30),
      [&](SqlSession&) {
        started.set_value();
        go.get_future().wait();
        return absl::OkStatus();
      },
      [&](const absl::Status&) { ++done; });
  started.get_future().wait();
  database.Post(absl::Seconds(30), One, [&](const absl::Status&) { ++done; });
  EXPECT_TRUE(absl::IsResourceExhausted(database.Run(absl::Seconds(30), One)));
  go.set_value();
  while (done < 2) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(database.Run(absl::Seconds(10), One).ok());
}

TEST_F(DatabaseTest, AJobThatWaitedTooLongIsNotRun) {
  DatabaseOptions options = Options();
  options.threads = 1;
  Database database(options);
  std::promise<void> go;
  database.Post(
      absl::Seconds(30),
      [&](SqlSession&) {
        go.get_future().wait();
        return absl::OkStatus();
      },
      [](const absl::Status&) {});
  std::atomic<bool> ran{false};
  std::promise<absl::Status> ended;
  database.Post(
      absl::Milliseconds(1),
      [&](SqlSession&) {
        ran = true;
        return absl::OkStatus();
      },
      [&](const absl::Status& status) { ended.set_value(status); });
  absl::SleepFor(absl::Milliseconds(20));
  go.set_value();
  EXPECT_TRUE(absl::IsDeadlineExceeded(ended.get_future().get()));
  EXPECT_FALSE(ran);
}

TEST_F(DatabaseTest, WithoutADatabaseJobsFailAtOnceAndLaterWork) {
  if (postgresql()) GTEST_SKIP() << "the system tests stop the server";
  const auto missing = folder_ / "missing";
  DatabaseOptions options = Options();
  options.url = *ParseDatabaseUrl(absl::StrCat("sqlite:", (missing / "state.db").string()));
  options.retry_first = absl::Milliseconds(10);
  Database database(options);
  EXPECT_TRUE(absl::IsUnavailable(database.Run(absl::Seconds(10), One)));
  EXPECT_FALSE(database.up());
  std::filesystem::create_directories(missing);
  absl::Status status;
  for (int i = 0; i < 200 && !(status = database.Run(absl::Seconds(10), One)).ok(); ++i) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(database.up());
}

TEST_F(DatabaseTest, ASchemaItMustNotUseIsWhatJobsHear) {
  DatabaseOptions options = Options();
  options.on_connect = [](SqlSession&) { return absl::FailedPreconditionError("too new"); };
  Database database(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(database.Run(absl::Seconds(10), One)));
}

TEST_F(DatabaseTest, AConnectionThatHangsIsCut) {
  if (!postgresql()) GTEST_SKIP() << "SQLite has no connection to hang";
  DatabaseOptions options = Options();
  options.threads = 1;
  Database database(options);
  const absl::Time start = absl::Now();
  const absl::Status status = database.Run(absl::Milliseconds(300), [](SqlSession& session) {
    return session.Query("SELECT pg_sleep(8)", 1).status();
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  EXPECT_TRUE(absl::IsUnavailable(database.Run(absl::Seconds(5), One)) ||
              database.Run(absl::Seconds(5), One).ok());
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_TRUE(database.Run(absl::Seconds(5), One).ok());
}

TEST(MemoryDatabaseTest, NeedsNoFile) {
  DatabaseOptions options;
  options.on_connect = [](SqlSession& session) { return Migrate(session, SchemaMigrations()); };
  Database database(options);
  EXPECT_TRUE(database
                  .Run(absl::Seconds(10),
                       [](SqlSession& session) {
                         return session.Query("SELECT COUNT(*) FROM leases", 1).status();
                       })
                  .ok());
}

}  // namespace
}  // namespace fathom::master
