#pragma once

// API keys from a file that holds only their hashes. One key a line:
//
//   name:sha256[:role[:tenant[:priority[:weight[:requests[:tokens]]]]]]
//
// `name` is 1-64 of [A-Za-z0-9._-] and names the key in logs; `sha256` is the SHA-256 of the key in
// lower-case hex; `role` is admin, developer (default) or auditor; `tenant` defaults to the name;
// `priority` 0-9 is the most urgent priority the key may ask for (default 0); `weight` 1-1000 is
// the share of its tenant when several wait (default 1); `requests` and `tokens` are what the key
// may have a minute, over all masters together (default no limit; tokens are those of prompts and
// answers). An empty field is its default. Empty lines and lines that start with # are skipped.
// Anything else is an error that names the line.
//
// Immutable; any thread may use it.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "master/identity/principal.h"

namespace fathom::master {

class ApiKeys {
 public:
  static absl::StatusOr<ApiKeys> FromFile(const std::string& path);
  static absl::StatusOr<ApiKeys> Parse(std::string_view text);
  // Every caller is the one local principal: for loopback alone.
  static ApiKeys Open();

  // UNAUTHENTICATED without a key or with an unknown one. Every hash is compared whole, so the time
  // tells nothing about which one came close.
  absl::StatusOr<Principal> Authenticate(std::optional<std::string_view> key) const;
  // The value of an Authorization header: "Bearer KEY".
  absl::StatusOr<Principal> AuthenticateHeader(std::optional<std::string_view> header) const;

  size_t size() const { return entries_.size(); }
  bool open() const { return open_; }

 private:
  struct Entry {
    std::string hash;
    Principal principal;
  };
  static absl::StatusOr<Entry> ParseLine(std::string_view line);

  bool open_ = false;
  std::vector<Entry> entries_;
};

}  // namespace fathom::master
