#pragma once

// The rows in which masters tell each other that they live and how they fare. A row counts while it
// was written lately by the database's clock; those long dead are swept out by whoever passes.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "master/state/sql_session.h"

namespace fathom::master {

// How a master fares.
struct MasterFigures {
  int64_t queued = 0;     // requests that wait for a worker
  int64_t in_flight = 0;  // all requests that it has
  int64_t workers = 0;    // linked to it
  double tokens_per_second = 0;
};

// One life of one master.
struct MasterIdentity {
  std::string id;
  std::string incarnation;
  std::string link_address;  // host:port at which workers reach it; empty: they are not told of it
  std::string build;
  // Of the cluster's secret: equal where that is; does not give it away. Empty: not known.
  std::string secret_mark;
};

struct MasterRow {
  MasterIdentity identity;
  MasterFigures figures;
  double up_seconds = 0;   // since its first row
  double age_seconds = 0;  // since its last one
};

absl::Status WriteMasterRow(SqlSession& session, const MasterIdentity& identity,
                            const MasterFigures& figures);
absl::Status DeleteMasterRow(SqlSession& session, const std::string& incarnation);
// Of masters that live, by id.
absl::StatusOr<std::vector<MasterRow>> ReadMasterRows(SqlSession& session);

}  // namespace fathom::master
