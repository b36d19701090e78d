#pragma once

// The model catalogue's tables as they lie in the database: versions of models, and routes, which
// say where requests for a name go. What may be written is checked elsewhere (models/
// catalog_changes).
//
// Every change takes the next revision first, in its own transaction: changes come one after the
// other, whichever master makes them, and a master that knows the revision knows all.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "master/state/sql_session.h"

namespace fathom::master {

struct ModelVersionRow {
  std::string name;
  int64_t version = 0;  // from 1
  std::string path;     // a directory, as masters and workers reach it
  std::string pool;
  int64_t replicas = 1;        // workers that are to have it; kEverywhere: all that have room
  int64_t kv_cache_bytes = 0;  // on each
  int64_t memory_bytes = 0;    // it takes on each, by estimate, its KV cache included
  std::string reasoning_parser;
  std::string tool_parser;
  bool retired = false;   // takes no new requests, and is to go
  int64_t replaces = 0;   // the version whose place it takes once it is ready; 0: none
  int64_t created_s = 0;  // by the database's clock

  static constexpr int64_t kEverywhere = -1;
  bool operator==(const ModelVersionRow&) const = default;
};

struct RouteRow {
  std::string name;
  std::string targets;   // as models/routes writes them
  std::string previous;  // what `targets` was before; empty: nothing
  std::string pending;   // what it is to be once all of that is ready; empty: nothing
  bool operator==(const RouteRow&) const = default;
};

struct CatalogRows {
  int64_t revision = 0;
  std::vector<ModelVersionRow> versions;  // by name and version
  std::vector<RouteRow> routes;           // by name
};

absl::StatusOr<int64_t> CatalogRevision(SqlSession& session);
// Within a transaction: others wait here until it ends.
absl::Status NextCatalogRevision(SqlSession& session);
absl::StatusOr<CatalogRows> ReadCatalogRows(SqlSession& session);

absl::Status InsertModelVersion(SqlSession& session, const ModelVersionRow& row);
// What may change later: retired and replaces.
absl::Status UpdateModelVersion(SqlSession& session, const ModelVersionRow& row);
absl::Status DeleteModelVersion(SqlSession& session, const std::string& name, int64_t version);
absl::Status WriteRoute(SqlSession& session, const RouteRow& row);
absl::Status DeleteRoute(SqlSession& session, const std::string& name);

}  // namespace fathom::master
