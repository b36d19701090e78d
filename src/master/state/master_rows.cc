#include "master/state/master_rows.h"

#include "common/status_macros.h"

namespace fathom::master {
namespace {

// A master that has not written for so long is taken for dead; it writes every second.
constexpr int64_t kAliveMs = 5000;
constexpr int64_t kForgottenMs = 3'600'000;

}  // namespace

absl::Status WriteMasterRow(SqlSession& session, const MasterIdentity& identity,
                            const MasterFigures& figures) {
  return session.Execute(
      "INSERT INTO master_status (incarnation, id, link_address, build, started_at, updated_at, "
      "queued, in_flight, workers, tokens_per_second, secret_mark) "
      "VALUES (:incarnation, :id, :link, :build, {now}, {now}, :queued, :in_flight, :workers, "
      ":rate, :mark) "
      "ON CONFLICT (incarnation) DO UPDATE SET link_address = excluded.link_address, "
      "updated_at = excluded.updated_at, queued = excluded.queued, "
      "in_flight = excluded.in_flight, workers = excluded.workers, "
      "tokens_per_second = excluded.tokens_per_second",
      {{"incarnation", identity.incarnation},
       {"id", identity.id},
       {"link", identity.link_address},
       {"build", identity.build},
       {"queued", figures.queued},
       {"in_flight", figures.in_flight},
       {"workers", figures.workers},
       {"rate", figures.tokens_per_second},
       {"mark", identity.secret_mark}});
}

absl::Status DeleteMasterRow(SqlSession& session, const std::string& incarnation) {
  return session.Execute(
      "DELETE FROM master_status WHERE incarnation = :incarnation OR updated_at < {now} - :old",
      {{"incarnation", incarnation}, {"old", kForgottenMs}});
}

absl::StatusOr<std::vector<MasterRow>> ReadMasterRows(SqlSession& session) {
  ASSIGN_OR_RETURN(
      const std::vector<SqlRow> rows,
      session.Query("SELECT id, incarnation, link_address, build, queued, in_flight, workers, "
                    "tokens_per_second, {now} - started_at, {now} - updated_at, secret_mark "
                    "FROM master_status WHERE updated_at > {now} - :alive "
                    "ORDER BY id, incarnation LIMIT 256",
                    11, {{"alive", kAliveMs}}));
  std::vector<MasterRow> masters;
  for (const SqlRow& row : rows) {
    masters.push_back({.identity = {.id = row.text(0),
                                    .incarnation = row.text(1),
                                    .link_address = row.text(2),
                                    .build = row.text(3),
                                    .secret_mark = row.text(10)},
                       .figures = {.queued = row.integer(4),
                                   .in_flight = row.integer(5),
                                   .workers = row.integer(6),
                                   .tokens_per_second = row.real(7)},
                       .up_seconds = row.real(8) / 1000,
                       .age_seconds = row.real(9) / 1000});
  }
  return masters;
}

}  // namespace fathom::master
