#include "cli/http_client/url.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

absl::Status Bad(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("'", ToAbsl(text), "': ", ToAbsl(why)));
}

bool IsHostCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_' || c == ':';
}

}  // namespace

std::string Url::authority() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return is_ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<Url> ParseUrl(std::string_view text) {
  std::string_view rest = text;
  if (rest.starts_with("https://")) return Bad(text, "https is not supported; use http");
  if (rest.starts_with("http://")) rest.remove_prefix(7);

  Url url;
  const size_t slash = rest.find('/');
  if (slash != std::string_view::npos) {
    std::string_view base = rest.substr(slash);
    if (base.find_first_of("?# ") != std::string_view::npos)
      return Bad(text, "only a path may follow");
    while (base.ends_with('/')) base.remove_suffix(1);
    if (base.ends_with("/v1")) base.remove_suffix(3);
    url.base = base;
    rest = rest.substr(0, slash);
  }

  std::string_view port;
  if (rest.starts_with('[')) {
    const size_t close = rest.find(']');
    if (close == std::string_view::npos) return Bad(text, "no ] ends the address");
    url.host = rest.substr(1, close - 1);
    rest.remove_prefix(close + 1);
    if (!rest.empty() && rest.front() != ':') return Bad(text, "only :port may follow ]");
    if (!rest.empty()) port = rest;
  } else {
    const size_t colon = rest.find(':');
    url.host = rest.substr(0, colon);
    if (colon != std::string_view::npos) port = rest.substr(colon);
  }
  if (url.host.empty()) return Bad(text, "no host");
  for (const char c : url.host) {
    if (!IsHostCharacter(c)) return Bad(text, "no host name");
  }
  if (!port.empty()) {
    port.remove_prefix(1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), url.port);
    if (error != std::errc() || end != port.data() + port.size() || url.port == 0) {
      return Bad(text, "a port is a number from 1 to 65535");
    }
  }
  return url;
}

}  // namespace fathom::cli
