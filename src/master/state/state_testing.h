#pragma once

// A database for one test: a SQLite file of its own, or, where FATHOM_TEST_DATABASE names one, that
// PostgreSQL, emptied. The same tests run on both.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "master/state/database.h"
#include "master/state/migrations.h"

namespace fathom::master {

class StateTest : public testing::Test {
 protected:
  StateTest() {
    if (const char* given = std::getenv("FATHOM_TEST_DATABASE")) {
      url_ = *ParseDatabaseUrl(given);
      auto session = *SqlSession::Connect(url_, absl::Seconds(5));
      for (const char* table : {"leases", "master_status", "quotas", "schema_version", "notes",
                                "catalog_revision", "model_versions", "model_routes"}) {
        EXPECT_TRUE(session->Execute(absl::StrCat("DROP TABLE IF EXISTS ", table)).ok());
      }
      return;
    }
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ =
        std::filesystem::temp_directory_path() /
        absl::StrCat("fathom-state-", getpid(), "-", test->test_suite_name(), "-", test->name());
    std::filesystem::create_directories(folder_);
    url_ = *ParseDatabaseUrl(absl::StrCat("sqlite:", (folder_ / "state.db").string()));
  }
  ~StateTest() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  std::unique_ptr<SqlSession> Connect() const {
    auto session = SqlSession::Connect(url_, absl::Seconds(5));
    EXPECT_TRUE(session.ok()) << session.status();
    return *std::move(session);
  }
  std::unique_ptr<SqlSession> ConnectMigrated() const {
    auto session = Connect();
    const absl::Status status = Migrate(*session, SchemaMigrations());
    EXPECT_TRUE(status.ok()) << status;
    return session;
  }
  DatabaseOptions Options() const {
    DatabaseOptions options;
    options.url = url_;
    options.on_connect = [](SqlSession& session) { return Migrate(session, SchemaMigrations()); };
    return options;
  }
  bool postgresql() const { return url_.dialect == SqlDialect::kPostgresql; }

  DatabaseUrl url_;
  std::filesystem::path folder_;
};

}  // namespace fathom::master
