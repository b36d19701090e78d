#include "master/state/quota_rows.h"

#include "absl/strings/str_replace.h"
#include "common/status_macros.h"

namespace fathom::master {
namespace {

// {left}: what the bucket holds once it is filled up, given back to, and paid. {part}: how much of
// what is wanted it gives. PostgreSQL would take the parameters for whole numbers without the
// casts.
constexpr char kExchange[] =
    "UPDATE quotas SET taken = {part}, level = {left} - {part}, "
    "updated_at = {greatest}(updated_at, {now}) "
    "WHERE key_id = :key AND kind = :kind RETURNING taken, level";
constexpr char kLeft[] =
    "({least}(CAST(:burst AS DOUBLE PRECISION), level + CAST(:give AS DOUBLE PRECISION) + "
    "{greatest}(0, {now} - updated_at) * CAST(:rate AS DOUBLE PRECISION)) - "
    "CAST(:debt AS DOUBLE PRECISION))";
constexpr char kPart[] = "{least}(CAST(:want AS DOUBLE PRECISION), {greatest}(0, {left}))";

const std::string& ExchangeSql() {
  static const auto* sql = new std::string(absl::StrReplaceAll(
      absl::StrReplaceAll(kExchange, {{"{part}", kPart}}), {{"{left}", kLeft}}));
  return *sql;
}

}  // namespace

absl::StatusOr<QuotaAnswer> ExchangeQuota(SqlSession& session, const std::string& key_id,
                                          const std::string& kind, const QuotaRate& rate,
                                          const QuotaExchange& exchange) {
  const SqlParams params{{"key", key_id},         {"kind", kind},
                         {"burst", rate.burst},   {"rate", rate.per_second / 1000},
                         {"debt", exchange.debt}, {"give", exchange.give},
                         {"want", exchange.want}};
  for (int attempt = 0; attempt < 2; ++attempt) {
    ASSIGN_OR_RETURN(const std::vector<SqlRow> rows, session.Query(ExchangeSql(), 2, params));
    if (!rows.empty()) return QuotaAnswer{rows[0].real(0), rows[0].real(1)};
    RETURN_IF_ERROR(session.Execute(
        "INSERT INTO quotas (key_id, kind, level, taken, updated_at) "
        "VALUES (:key, :kind, :burst, 0, {now}) ON CONFLICT (key_id, kind) DO NOTHING",
        {{"key", key_id}, {"kind", kind}, {"burst", rate.burst}}));
  }
  return absl::UnavailableError("a quota's row was removed meanwhile");
}

}  // namespace fathom::master
