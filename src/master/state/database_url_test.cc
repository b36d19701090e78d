#include "master/state/database_url.h"

#include <gtest/gtest.h>

namespace fathom::master {
namespace {

TEST(DatabaseUrlTest, NothingIsADatabaseInMemory) {
  const auto url = ParseDatabaseUrl("");
  ASSERT_TRUE(url.ok());
  EXPECT_EQ(url->dialect, SqlDialect::kSqlite);
  EXPECT_FALSE(url->shared());
}

TEST(DatabaseUrlTest, NamesAFileOrAServer) {
  const auto file = ParseDatabaseUrl("sqlite:/var/lib/fathom/state.db");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->target, "/var/lib/fathom/state.db");
  EXPECT_TRUE(file->shared());
  const auto server = ParseDatabaseUrl("postgresql://fathom@db.example:5432/fathom");
  ASSERT_TRUE(server.ok());
  EXPECT_EQ(server->dialect, SqlDialect::kPostgresql);
  EXPECT_TRUE(server->shared());
}

TEST(DatabaseUrlTest, RefusesWhatItCannotUse) {
  for (const char* bad : {"mysql://host/name", "state.db", "sqlite:", "sqlite:a\"b"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseDatabaseUrl(bad).status())) << bad;
  }
}

TEST(DatabaseUrlTest, RefusesAPasswordWithoutRepeatingIt) {
  for (const char* bad :
       {"postgresql://fathom:hunter2@host/name", "postgresql://host/name?password=hunter2&x=1"}) {
    const absl::Status status = ParseDatabaseUrl(bad).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad;
    EXPECT_EQ(status.message().find("hunter2"), absl::string_view::npos);
  }
}

TEST(DatabaseUrlTest, ItsLoggedFormHoldsNoParameters) {
  auto url = ParseDatabaseUrl("postgresql://fathom@host/name?sslkey=/secret/path");
  ASSERT_TRUE(url.ok());
  url->password = "hunter2";
  EXPECT_EQ(url->Redacted(), "postgresql://fathom@host/name");
}

}  // namespace
}  // namespace fathom::master
