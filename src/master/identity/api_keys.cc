#include "master/identity/api_keys.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/digest.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

constexpr size_t kFileBytesMax = 1 << 20;
constexpr size_t kNameBytesMax = 64;
constexpr int32_t kWeightMax = 1000;
constexpr int64_t kQuotaMax = 1'000'000'000'000;
constexpr size_t kKeyBytesMax = 512;
constexpr size_t kHashHexBytes = 64;
constexpr std::string_view kScheme = "bearer ";

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= kNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
         });
}

bool IsLowerHex(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
}

}  // namespace

absl::StatusOr<ApiKeys::Entry> ApiKeys::ParseLine(std::string_view line) {
  const std::vector<std::string> parts = absl::StrSplit(ToAbsl(line), ':');
  if (parts.size() < 2 || parts.size() > 8) {
    return absl::InvalidArgumentError(
        "expected name:sha256[:role[:tenant[:priority[:weight[:requests[:tokens]]]]]]");
  }
  Entry entry;
  entry.principal.key_id = parts[0];
  entry.hash = parts[1];
  entry.principal.role = parts.size() > 2 && !parts[2].empty() ? parts[2] : "developer";
  entry.principal.tenant = parts.size() > 3 && !parts[3].empty() ? parts[3] : parts[0];
  if (!IsName(parts[0])) return absl::InvalidArgumentError("bad key name");
  if (entry.hash.size() != kHashHexBytes || !IsLowerHex(entry.hash)) {
    return absl::InvalidArgumentError("the hash is not a SHA-256 in lower-case hex");
  }
  const std::string& role = entry.principal.role;
  if (role != "admin" && role != "developer" && role != "auditor") {
    return absl::InvalidArgumentError("the role is none of admin, developer, auditor");
  }
  if (!IsName(entry.principal.tenant)) return absl::InvalidArgumentError("bad tenant");
  if (parts.size() > 4 && !parts[4].empty()) {
    if (parts[4].size() != 1 || std::isdigit(static_cast<unsigned char>(parts[4][0])) == 0) {
      return absl::InvalidArgumentError("the priority is not 0-9");
    }
    entry.principal.priority_ceiling = parts[4][0] - '0';
  }
  if (parts.size() > 5 && !parts[5].empty() &&
      (!absl::SimpleAtoi(parts[5], &entry.principal.weight) || entry.principal.weight < 1 ||
       entry.principal.weight > kWeightMax)) {
    return absl::InvalidArgumentError("the weight is not 1-1000");
  }
  const auto quota = [&](size_t part, int64_t& limit) {
    if (parts.size() <= part || parts[part].empty()) return true;
    return absl::SimpleAtoi(parts[part], &limit) && limit >= 1 && limit <= kQuotaMax;
  };
  if (!quota(6, entry.principal.quota.requests_per_minute)) {
    return absl::InvalidArgumentError("the requests a minute are not 1-1000000000000");
  }
  if (!quota(7, entry.principal.quota.tokens_per_minute)) {
    return absl::InvalidArgumentError("the tokens a minute are not 1-1000000000000");
  }
  return entry;
}

absl::StatusOr<ApiKeys> ApiKeys::Parse(std::string_view text) {
  ApiKeys keys;
  int line_number = 0;
  for (const absl::string_view raw : absl::StrSplit(ToAbsl(text), '\n')) {
    ++line_number;
    const absl::string_view line = absl::StripAsciiWhitespace(raw);
    if (line.empty() || line.front() == '#') continue;
    absl::StatusOr<Entry> entry = ParseLine(ToStd(line));
    if (!entry.ok()) {
      // The line itself stays out of the message: it holds a hash.
      return absl::InvalidArgumentError(
          absl::StrCat("line ", line_number, ": ", entry.status().message()));
    }
    for (const Entry& other : keys.entries_) {
      if (other.hash == entry->hash || other.principal.key_id == entry->principal.key_id) {
        return absl::InvalidArgumentError(absl::StrCat("line ", line_number, ": a key twice"));
      }
    }
    keys.entries_.push_back(*std::move(entry));
  }
  return keys;
}

absl::StatusOr<ApiKeys> ApiKeys::FromFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kFileBytesMax));
  absl::StatusOr<ApiKeys> keys = Parse(text);
  if (!keys.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", keys.status().message()));
  }
  if (keys->entries_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": holds no key"));
  }
  return keys;
}

ApiKeys ApiKeys::Open() {
  ApiKeys keys;
  keys.open_ = true;
  return keys;
}

absl::StatusOr<Principal> ApiKeys::Authenticate(std::optional<std::string_view> key) const {
  if (open_) return Principal{.key_id = "open", .role = "admin", .tenant = "open"};
  if (!key || key->empty()) {
    return absl::UnauthenticatedError("no API key: send \"Authorization: Bearer KEY\"");
  }
  if (key->size() > kKeyBytesMax) return absl::UnauthenticatedError("invalid API key");
  const std::string hash = Sha256Hex(*key);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (EqualInConstantTime(entry.hash, hash)) found = &entry;
  }
  if (found == nullptr) return absl::UnauthenticatedError("invalid API key");
  return found->principal;
}

absl::StatusOr<Principal> ApiKeys::AuthenticateHeader(
    std::optional<std::string_view> header) const {
  if (!header) return Authenticate(std::nullopt);
  if (!absl::StartsWithIgnoreCase(ToAbsl(*header), ToAbsl(kScheme))) {
    if (open_) return Authenticate(std::nullopt);
    return absl::UnauthenticatedError("the Authorization header is not \"Bearer KEY\"");
  }
  const absl::string_view key = absl::StripAsciiWhitespace(ToAbsl(header->substr(kScheme.size())));
  return Authenticate(ToStd(key));
}

}  // namespace fathom::master
