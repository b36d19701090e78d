#include "master/state/database_url.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

constexpr std::string_view kSqlite = "sqlite:";
constexpr size_t kBytesMax = 4096;

bool IsPostgresql(std::string_view text) {
  return text.starts_with("postgresql://") || text.starts_with("postgres://");
}

// What lies between "//" and the next "/" or "?".
std::string_view Authority(std::string_view url) {
  url.remove_prefix(url.find("//") + 2);
  return url.substr(0, url.find_first_of("/?"));
}

}  // namespace

std::string DatabaseUrl::Redacted() const {
  if (dialect == SqlDialect::kSqlite) return absl::StrCat("sqlite:", target);
  // Parameters may hold anything.
  return target.substr(0, target.find('?'));
}

absl::StatusOr<DatabaseUrl> ParseDatabaseUrl(std::string_view text) {
  if (text.empty()) return DatabaseUrl{};
  if (text.size() > kBytesMax) return absl::InvalidArgumentError("longer than 4096 bytes");
  if (text.starts_with(kSqlite)) {
    const std::string_view path = text.substr(kSqlite.size());
    if (path.empty()) return absl::InvalidArgumentError("\"sqlite:\" needs the path of a file");
    if (path.find_first_of("\"\n") != std::string_view::npos) {
      return absl::InvalidArgumentError("the path of a SQLite file has no quotes or line ends");
    }
    return DatabaseUrl{.target = std::string(path)};
  }
  if (IsPostgresql(text)) {
    const std::string_view authority = Authority(text);
    const size_t at = authority.rfind('@');
    const bool in_user =
        at != std::string_view::npos && authority.substr(0, at).find(':') != std::string_view::npos;
    if (in_user || absl::StrContains(ToAbsl(text), "password=")) {
      return absl::InvalidArgumentError(
          "a password does not belong into the URL: give database_password_file, or libpq's own "
          "PGPASSFILE");
    }
    return DatabaseUrl{.dialect = SqlDialect::kPostgresql, .target = std::string(text)};
  }
  return absl::InvalidArgumentError(
      "neither \"sqlite:PATH\" nor \"postgresql://USER@HOST:PORT/NAME\"");
}

}  // namespace fathom::master
