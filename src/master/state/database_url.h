#pragma once

// Where the masters' shared state lies: "sqlite::memory:", "sqlite:PATH" or a URL of PostgreSQL as
// libpq takes it ("postgresql://user@host:5432/name"). Pure.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fathom::master {

enum class SqlDialect : uint8_t { kSqlite, kPostgresql };

struct DatabaseUrl {
  SqlDialect dialect = SqlDialect::kSqlite;
  std::string target = ":memory:";  // SQLite's file, or the whole URL
  std::string password;             // of PostgreSQL; empty: what libpq finds itself

  bool shared() const { return target != ":memory:"; }
  // For logs: what the URL says of the place, never a password.
  std::string Redacted() const;
};

// INVALID_ARGUMENT for other schemes, a file name that cannot be given to SQLite, and a password in
// the URL, which a list of processes would show. Empty text is a database in memory.
absl::StatusOr<DatabaseUrl> ParseDatabaseUrl(std::string_view text);

}  // namespace fathom::master
