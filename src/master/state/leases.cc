#include "master/state/leases.h"

#include "common/status_macros.h"

namespace fathom::master {

absl::StatusOr<LeaseView> TakeLease(SqlSession& session, const std::string& name,
                                    const std::string& holder, absl::Duration ttl) {
  const SqlParams params{
      {"name", name}, {"holder", holder}, {"ttl", absl::ToInt64Milliseconds(ttl)}};
  ASSIGN_OR_RETURN(
      std::vector<SqlRow> rows,
      session.Query("INSERT INTO leases (name, holder, epoch, expires_at) "
                    "VALUES (:name, :holder, 1, {now} + :ttl) "
                    "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, "
                    "epoch = CASE WHEN leases.holder = excluded.holder THEN leases.epoch "
                    "ELSE leases.epoch + 1 END, expires_at = excluded.expires_at "
                    "WHERE leases.holder = excluded.holder OR leases.expires_at <= {now} "
                    "RETURNING holder, epoch",
                    2, params));
  if (rows.empty()) {
    ASSIGN_OR_RETURN(rows, session.Query("SELECT holder, epoch FROM leases WHERE name = :name", 2,
                                         {{"name", name}}));
  }
  if (rows.empty()) return absl::UnavailableError("the lease was removed meanwhile");
  return LeaseView{rows[0].text(0), static_cast<uint64_t>(rows[0].integer(1))};
}

absl::Status ReleaseLease(SqlSession& session, const std::string& name, const std::string& holder) {
  return session.Execute("UPDATE leases SET expires_at = 0 WHERE name = :name AND holder = :holder",
                         {{"name", name}, {"holder", holder}});
}

}  // namespace fathom::master
