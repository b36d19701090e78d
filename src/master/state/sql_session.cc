#include "master/state/sql_session.h"

#include <soci/postgresql/soci-postgresql.h>
#include <soci/soci.h>
#include <soci/sqlite3/soci-sqlite3.h>
#include <sys/socket.h>

#include <algorithm>
#include <exception>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

// SQLite's codes that SOCI has no names for.
constexpr int kSqliteBusy = 5;
constexpr int kSqliteLocked = 6;
constexpr int kSqliteReadOnly = 8;
constexpr int kSqliteIoError = 10;
constexpr int kSqliteFull = 13;
constexpr int kSqliteCannotOpen = 14;
// A connection in a transaction that its master does not end (it is stopped) lets go of its locks.
constexpr char kServerLimits[] =
    "SET statement_timeout = 10000; SET lock_timeout = 5000; "
    "SET idle_in_transaction_session_timeout = 10000";
constexpr int kBusyTimeoutSeconds = 2;

constexpr char kPostgresqlNow[] = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
constexpr char kSqliteNow[] = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";

std::string PercentEncoded(std::string_view text) {
  std::string out;
  for (const char c : text) absl::StrAppendFormat(&out, "%%%02X", static_cast<unsigned char>(c));
  return out;
}

std::string PostgresqlUrl(const DatabaseUrl& url, absl::Duration limit) {
  const int64_t ms = std::max<int64_t>(1000, absl::ToInt64Milliseconds(limit));
  // Ours come first, so that those of the URL win.
  const std::string ours =
      absl::StrCat("application_name=fathom-master&connect_timeout=", (ms + 999) / 1000,
                   "&tcp_user_timeout=", ms, "&keepalives_idle=5&keepalives_interval=2");
  const size_t query = url.target.find('?');
  const std::string place = url.target.substr(0, query);
  // libpq wants a slash before the parameters.
  const bool has_path = place.find('/', place.find("//") + 2) != std::string::npos;
  std::string text = absl::StrCat(place, has_path ? "?" : "/?", ours);
  if (query != std::string::npos && query + 1 < url.target.size()) {
    absl::StrAppend(&text, "&", url.target.substr(query + 1));
  }
  if (!url.password.empty()) absl::StrAppend(&text, "&password=", PercentEncoded(url.password));
  return text;
}

// Server states that pass: shutting down, too many clients, deadlocks, timeouts, a standby.
bool MayPass(std::string_view sqlstate) {
  return sqlstate.starts_with("08") || sqlstate.starts_with("40") || sqlstate.starts_with("53") ||
         sqlstate.starts_with("57") || sqlstate == "55P03" || sqlstate == "25006" ||
         sqlstate.starts_with(" ") || sqlstate.empty();
}

std::string OneLine(std::string_view text) {
  std::string line(text.substr(0, 500));
  std::replace(line.begin(), line.end(), '\n', ' ');
  return std::string(absl::StripAsciiWhitespace(ToAbsl(line)));
}

}  // namespace

const std::string SqlRow::kEmpty;

int64_t SqlRow::integer(size_t column) const {
  int64_t value = 0;
  return absl::SimpleAtoi(text(column), &value) ? value : static_cast<int64_t>(real(column));
}

double SqlRow::real(size_t column) const {
  double value = 0;
  return absl::SimpleAtod(text(column), &value) ? value : 0;
}

struct SqlSession::Connection {
  Connection(SqlDialect dialect, const std::string& text)
      : session(dialect == SqlDialect::kSqlite ? soci::session(soci::sqlite3, text)
                                               : soci::session(soci::postgresql, text)) {
    if (dialect == SqlDialect::kPostgresql) {
      server = static_cast<soci::postgresql_session_backend*>(session.get_backend())->conn_;
      socket = PQsocket(server);
      // libpq's own writes them to stderr, between lines of JSON.
      PQsetNoticeProcessor(
          server, [](void*, const char*) {}, nullptr);
    }
  }
  bool Lost() const { return server != nullptr && PQstatus(server) == CONNECTION_BAD; }

  soci::session session;
  PGconn* server = nullptr;
  int socket = -1;  // stays open until the session goes
};

SqlSession::SqlSession(SqlDialect dialect, std::unique_ptr<Connection> connection)
    : dialect_(dialect), connection_(std::move(connection)) {}

SqlSession::~SqlSession() = default;

template <typename Call>
absl::Status SqlSession::Guard(Call&& call) {
  if (broken_) return absl::UnavailableError("the connection to the database is lost");
  try {
    call();
    return absl::OkStatus();
  } catch (const soci::postgresql_soci_error& error) {
    broken_ = connection_->Lost() || error.sqlstate() == "25006";
    const bool passes = broken_ || MayPass(error.sqlstate());
    return absl::Status(passes ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal,
                        absl::StrCat("database: ", OneLine(error.get_error_message())));
  } catch (const soci::sqlite3_soci_error& error) {
    const int code = error.result() & 0xff;
    broken_ = code == kSqliteIoError || code == kSqliteCannotOpen;
    const bool passes = broken_ || code == kSqliteBusy || code == kSqliteLocked ||
                        code == kSqliteFull || code == kSqliteReadOnly;
    return absl::Status(passes ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal,
                        absl::StrCat("database: ", OneLine(error.get_error_message())));
  } catch (const std::exception& error) {
    broken_ = connection_->Lost();
    return absl::Status(broken_ ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal,
                        absl::StrCat("database: ", OneLine(error.what())));
  }
}

absl::StatusOr<std::unique_ptr<SqlSession>> SqlSession::Open(const DatabaseUrl& url,
                                                             absl::Duration limit) {
  const bool sqlite = url.dialect == SqlDialect::kSqlite;
  std::unique_ptr<Connection> connection;
  try {
    connection = std::make_unique<Connection>(
        url.dialect, sqlite
                         ? absl::StrCat("dbname=\"", url.target, "\" timeout=", kBusyTimeoutSeconds)
                         : PostgresqlUrl(url, limit));
  } catch (const std::exception& error) {
    std::string why = OneLine(error.what());
    if (!url.password.empty()) why = absl::StrReplaceAll(why, {{url.password, "(password)"}});
    return absl::UnavailableError(absl::StrCat("no database at ", url.Redacted(), ": ", why));
  }
  return std::unique_ptr<SqlSession>(new SqlSession(url.dialect, std::move(connection)));
}

absl::Status SqlSession::SetUp() {
  if (dialect_ == SqlDialect::kPostgresql) {
    return Guard([&] { connection_->session << kServerLimits; });
  }
  // Readers do not wait for the writer, and a commit survives the process, not a power cut.
  return Guard([&] {
    std::string mode;
    connection_->session << "PRAGMA journal_mode = WAL", soci::into(mode);
    connection_->session << "PRAGMA synchronous = NORMAL";
  });
}

absl::StatusOr<std::unique_ptr<SqlSession>> SqlSession::Connect(const DatabaseUrl& url,
                                                                absl::Duration limit) {
  ASSIGN_OR_RETURN(std::unique_ptr<SqlSession> session, Open(url, limit));
  RETURN_IF_ERROR(session->SetUp());
  return session;
}

std::string SqlSession::Translate(std::string_view sql) const {
  const bool sqlite = dialect_ == SqlDialect::kSqlite;
  return absl::StrReplaceAll(ToAbsl(sql), {{"{now}", sqlite ? kSqliteNow : kPostgresqlNow},
                                           {"{greatest}", sqlite ? "MAX" : "GREATEST"},
                                           {"{least}", sqlite ? "MIN" : "LEAST"}});
}

absl::Status SqlSession::Execute(std::string_view sql, const SqlParams& params) {
  return Query(sql, 0, params).status();
}

absl::StatusOr<std::vector<SqlRow>> SqlSession::Query(std::string_view sql, size_t columns,
                                                      const SqlParams& params) {
  const std::string text = Translate(sql);
  SqlParams bound = params;  // SOCI binds what it may change
  std::vector<std::string> values(columns);
  std::vector<soci::indicator> indicators(columns, soci::i_null);
  std::vector<SqlRow> rows;
  RETURN_IF_ERROR(Guard([&] {
    soci::statement statement(connection_->session);
    for (size_t i = 0; i < columns; ++i) {
      statement.exchange(soci::into(values[i], indicators[i]));
    }
    for (auto& [name, value] : bound) {
      std::visit([&, &key = name](auto& v) { statement.exchange(soci::use(v, key)); }, value);
    }
    statement.alloc();
    statement.prepare(text, soci::details::st_one_time_query);
    statement.define_and_bind();
    for (bool more = statement.execute(true); more && columns > 0; more = statement.fetch()) {
      std::vector<std::optional<std::string>> cells(columns);
      for (size_t i = 0; i < columns; ++i) {
        if (indicators[i] == soci::i_ok) cells[i] = values[i];
      }
      rows.emplace_back(std::move(cells));
    }
  }));
  return rows;
}

void SqlSession::Interrupt() {
  if (connection_->socket >= 0) shutdown(connection_->socket, SHUT_RDWR);
}

absl::StatusOr<SqlTransaction> SqlTransaction::Begin(SqlSession& session) {
  // SQLite's usual transactions take the lock late, and then some fail that had only to wait.
  RETURN_IF_ERROR(
      session.Execute(session.dialect() == SqlDialect::kSqlite ? "BEGIN IMMEDIATE" : "BEGIN"));
  return SqlTransaction(&session);
}

SqlTransaction::~SqlTransaction() {
  // When it fails, so has the connection, and the database rolls back itself.
  if (session_ != nullptr) session_->Execute("ROLLBACK").IgnoreError();
}

absl::Status SqlTransaction::Commit() {
  return std::exchange(session_, nullptr)->Execute("COMMIT");
}

}  // namespace fathom::master
