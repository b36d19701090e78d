#include "master/state/migrations.h"

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace fathom::master {
namespace {

// Any number that no other program locks in the same database.
constexpr char kPostgresqlLock[] = "SELECT pg_advisory_xact_lock(7017296835031)";

absl::Status Apply(SqlSession& session, const Migration& migration) {
  for (const std::string& statement : migration.statements) {
    RETURN_IF_ERROR(session.Execute(statement));
  }
  return session.Execute(
      "INSERT INTO schema_version (version, min_reader, applied_at, description) "
      "VALUES (:version, :reader, {now}, :description)",
      {{"version", int64_t{migration.version}},
       {"reader", int64_t{migration.min_reader}},
       {"description", migration.description}});
}

}  // namespace

const std::vector<Migration>& SchemaMigrations() {
  // Never destroyed: database threads may outlive main's statics.
  static const auto* migrations = new std::vector<Migration>{
      {.version = 1,
       .min_reader = 1,
       .description = "leases, masters and quotas",
       .statements =
           {"CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, "
            "epoch BIGINT NOT NULL, expires_at BIGINT NOT NULL)",
            "CREATE TABLE master_status (incarnation TEXT PRIMARY KEY, id TEXT NOT NULL, "
            "link_address TEXT NOT NULL, build TEXT NOT NULL, started_at BIGINT NOT NULL, "
            "updated_at BIGINT NOT NULL, queued BIGINT NOT NULL, in_flight BIGINT NOT NULL, "
            "workers BIGINT NOT NULL, tokens_per_second DOUBLE PRECISION NOT NULL)",
            "CREATE TABLE quotas (key_id TEXT NOT NULL, kind TEXT NOT NULL, "
            "level DOUBLE PRECISION NOT NULL, taken DOUBLE PRECISION NOT NULL, "
            "updated_at BIGINT NOT NULL, PRIMARY KEY (key_id, kind))"}},
      {.version = 2,
       .min_reader = 1,
       .description = "the model catalogue",
       .statements =
           {"CREATE TABLE catalog_revision (revision BIGINT NOT NULL)",
            "INSERT INTO catalog_revision (revision) VALUES (1)",
            "CREATE TABLE model_versions (name TEXT NOT NULL, version BIGINT NOT NULL, "
            "path TEXT NOT NULL, pool TEXT NOT NULL, replicas BIGINT NOT NULL, "
            "kv_cache_bytes BIGINT NOT NULL, memory_bytes BIGINT NOT NULL, "
            "reasoning_parser TEXT NOT NULL, tool_parser TEXT NOT NULL, retired BIGINT NOT NULL, "
            "replaces BIGINT NOT NULL, created_at BIGINT NOT NULL, PRIMARY KEY (name, version))",
            "CREATE TABLE model_routes (name TEXT PRIMARY KEY, targets TEXT NOT NULL, "
            "previous TEXT NOT NULL, pending TEXT NOT NULL)"}},
      {.version = 3,
       .min_reader = 1,
       .description = "whether masters have one secret",
       .statements = {"ALTER TABLE master_status ADD COLUMN secret_mark TEXT NOT NULL DEFAULT ''"}},
  };
  return *migrations;
}

absl::Status Migrate(SqlSession& session, const std::vector<Migration>& migrations) {
  ASSIGN_OR_RETURN(SqlTransaction transaction, SqlTransaction::Begin(session));
  if (session.dialect() == SqlDialect::kPostgresql) {
    RETURN_IF_ERROR(session.Query(kPostgresqlLock, 1).status());
  }
  RETURN_IF_ERROR(session.Execute(
      "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY, "
      "min_reader BIGINT NOT NULL, applied_at BIGINT NOT NULL, description TEXT NOT NULL)"));
  ASSIGN_OR_RETURN(
      const std::vector<SqlRow> rows,
      session.Query("SELECT version, min_reader FROM schema_version ORDER BY version DESC LIMIT 1",
                    2));
  const int64_t present = rows.empty() ? 0 : rows[0].integer(0);
  const int64_t min_reader = rows.empty() ? 0 : rows[0].integer(1);
  const int newest = migrations.empty() ? 0 : migrations.back().version;
  if (min_reader > newest) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the database's schema has number ", present, " and wants masters that know ", min_reader,
        "; this one knows ", newest, ": start a newer release, or restore the database"));
  }
  for (const Migration& migration : migrations) {
    if (migration.version <= present) continue;
    RETURN_IF_ERROR(Apply(session, migration));
  }
  RETURN_IF_ERROR(transaction.Commit());
  if (present < newest) {
    LogInfo("state", "the database's schema was migrated",
            {{"labels.from", present}, {"labels.to", int64_t{newest}}});
  }
  return absl::OkStatus();
}

}  // namespace fathom::master
