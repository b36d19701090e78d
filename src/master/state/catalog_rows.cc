#include "master/state/catalog_rows.h"

#include "common/status_macros.h"

namespace fathom::master {

absl::StatusOr<int64_t> CatalogRevision(SqlSession& session) {
  ASSIGN_OR_RETURN(const std::vector<SqlRow> rows,
                   session.Query("SELECT revision FROM catalog_revision", 1));
  return rows.empty() ? 0 : rows[0].integer(0);
}

absl::Status NextCatalogRevision(SqlSession& session) {
  return session.Execute("UPDATE catalog_revision SET revision = revision + 1");
}

absl::StatusOr<CatalogRows> ReadCatalogRows(SqlSession& session) {
  CatalogRows catalog;
  ASSIGN_OR_RETURN(catalog.revision, CatalogRevision(session));
  ASSIGN_OR_RETURN(
      const std::vector<SqlRow> versions,
      session.Query("SELECT name, version, path, pool, replicas, kv_cache_bytes, memory_bytes, "
                    "reasoning_parser, tool_parser, retired, replaces, created_at / 1000 "
                    "FROM model_versions ORDER BY name, version LIMIT 4096",
                    12));
  for (const SqlRow& row : versions) {
    catalog.versions.push_back({.name = row.text(0),
                                .version = row.integer(1),
                                .path = row.text(2),
                                .pool = row.text(3),
                                .replicas = row.integer(4),
                                .kv_cache_bytes = row.integer(5),
                                .memory_bytes = row.integer(6),
                                .reasoning_parser = row.text(7),
                                .tool_parser = row.text(8),
                                .retired = row.integer(9) != 0,
                                .replaces = row.integer(10),
                                .created_s = row.integer(11)});
  }
  ASSIGN_OR_RETURN(const std::vector<SqlRow> routes,
                   session.Query("SELECT name, targets, previous, pending FROM model_routes "
                                 "ORDER BY name LIMIT 4096",
                                 4));
  for (const SqlRow& row : routes) {
    catalog.routes.push_back({.name = row.text(0),
                              .targets = row.text(1),
                              .previous = row.text(2),
                              .pending = row.text(3)});
  }
  return catalog;
}

absl::Status InsertModelVersion(SqlSession& session, const ModelVersionRow& row) {
  return session.Execute(
      "INSERT INTO model_versions (name, version, path, pool, replicas, kv_cache_bytes, "
      "memory_bytes, reasoning_parser, tool_parser, retired, replaces, created_at) "
      "VALUES (:name, :version, :path, :pool, :replicas, :kv, :memory, :reasoning, :tool, "
      ":retired, :replaces, {now})",
      {{"name", row.name},
       {"version", row.version},
       {"path", row.path},
       {"pool", row.pool},
       {"replicas", row.replicas},
       {"kv", row.kv_cache_bytes},
       {"memory", row.memory_bytes},
       {"reasoning", row.reasoning_parser},
       {"tool", row.tool_parser},
       {"retired", int64_t{row.retired ? 1 : 0}},
       {"replaces", row.replaces}});
}

absl::Status UpdateModelVersion(SqlSession& session, const ModelVersionRow& row) {
  return session.Execute(
      "UPDATE model_versions SET retired = :retired, replaces = :replaces "
      "WHERE name = :name AND version = :version",
      {{"name", row.name},
       {"version", row.version},
       {"retired", int64_t{row.retired ? 1 : 0}},
       {"replaces", row.replaces}});
}

absl::Status DeleteModelVersion(SqlSession& session, const std::string& name, int64_t version) {
  return session.Execute("DELETE FROM model_versions WHERE name = :name AND version = :version",
                         {{"name", name}, {"version", version}});
}

absl::Status WriteRoute(SqlSession& session, const RouteRow& row) {
  return session.Execute(
      "INSERT INTO model_routes (name, targets, previous, pending) "
      "VALUES (:name, :targets, :previous, :pending) "
      "ON CONFLICT (name) DO UPDATE SET targets = excluded.targets, previous = excluded.previous, "
      "pending = excluded.pending",
      {{"name", row.name},
       {"targets", row.targets},
       {"previous", row.previous},
       {"pending", row.pending}});
}

absl::Status DeleteRoute(SqlSession& session, const std::string& name) {
  return session.Execute("DELETE FROM model_routes WHERE name = :name", {{"name", name}});
}

}  // namespace fathom::master
