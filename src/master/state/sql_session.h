#pragma once

// One connection to the database: the border behind which SOCI and its exceptions stay. One thread
// at a time, which may wait as long as the database does: never an I/O thread.
//
// Statements are written once for both dialects. What differs stands in braces:
//   {now}                  the database's clock, in milliseconds since 1970
//   {greatest}, {least}    of two numbers
// Parameters are named (":name") and bound, never pasted. One name may be used several times.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "master/state/database_url.h"

namespace fathom::master {

using SqlValue = std::variant<int64_t, double, std::string>;
using SqlParams = std::vector<std::pair<std::string, SqlValue>>;

// One row, each column as text; nothing is NULL.
class SqlRow {
 public:
  explicit SqlRow(std::vector<std::optional<std::string>> cells) : cells_(std::move(cells)) {}
  // REQUIRES: the row has the column. NULL is "" and 0.
  const std::string& text(size_t column) const { return cells_[column] ? *cells_[column] : kEmpty; }
  int64_t integer(size_t column) const;
  double real(size_t column) const;

 private:
  static const std::string kEmpty;
  std::vector<std::optional<std::string>> cells_;
};

class SqlSession {
 public:
  // UNAVAILABLE when the database cannot be reached, says no, or takes longer than `limit`.
  static absl::StatusOr<std::unique_ptr<SqlSession>> Open(const DatabaseUrl& url,
                                                          absl::Duration limit);
  // First of all, once: the connection's own limits and modes. It waits as any statement does.
  absl::Status SetUp();
  // Both.
  static absl::StatusOr<std::unique_ptr<SqlSession>> Connect(const DatabaseUrl& url,
                                                             absl::Duration limit);
  ~SqlSession();
  SqlSession(const SqlSession&) = delete;
  SqlSession& operator=(const SqlSession&) = delete;

  // UNAVAILABLE: the connection is lost, or the database is too busy; what was asked may have been
  // done or not. Other codes: the statement is at fault.
  absl::Status Execute(std::string_view sql, const SqlParams& params = {});
  // REQUIRES: `columns` is how many the statement returns.
  absl::StatusOr<std::vector<SqlRow>> Query(std::string_view sql, size_t columns,
                                            const SqlParams& params = {});

  SqlDialect dialect() const { return dialect_; }
  // Nothing can be asked any more.
  bool broken() const { return broken_; }

  // From any thread: whoever waits for this connection gets an error. It is broken then.
  void Interrupt();

 private:
  struct Connection;
  SqlSession(SqlDialect dialect, std::unique_ptr<Connection> connection);
  template <typename Call>
  absl::Status Guard(Call&& call);
  std::string Translate(std::string_view sql) const;

  const SqlDialect dialect_;
  const std::unique_ptr<Connection> connection_;
  bool broken_ = false;
};

// Everything between Begin and Commit, or nothing of it. Rolls back when it goes.
class SqlTransaction {
 public:
  // SQLite has one writer at a time, and takes it here.
  static absl::StatusOr<SqlTransaction> Begin(SqlSession& session);
  SqlTransaction(SqlTransaction&& other) noexcept
      : session_(std::exchange(other.session_, nullptr)) {}
  SqlTransaction& operator=(SqlTransaction&&) = delete;
  ~SqlTransaction();
  absl::Status Commit();

 private:
  explicit SqlTransaction(SqlSession* session) : session_(session) {}
  SqlSession* session_;
};

}  // namespace fathom::master
