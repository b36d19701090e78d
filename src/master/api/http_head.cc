#include "master/api/http_head.h"

#include <algorithm>
#include <boost/beast/http/status.hpp>
#include <cctype>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

namespace http = boost::beast::http;

constexpr size_t kRequestIdBytesMax = 128;

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

// The host of "host:port", "[::1]:port"; empty when malformed.
std::string_view HostName(std::string_view authority) {
  if (authority.starts_with('[')) {
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) return {};
    const std::string_view rest = authority.substr(end + 1);
    return rest.empty() || rest.starts_with(':') ? authority.substr(0, end + 1)
                                                 : std::string_view();
  }
  const size_t colon = authority.find(':');
  if (colon == std::string_view::npos) return authority;
  const std::string_view port = authority.substr(colon + 1);
  const bool digits =
      std::all_of(port.begin(), port.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  return digits ? authority.substr(0, colon) : std::string_view();
}

bool IsLoopbackName(std::string_view host) {
  const std::string name = absl::AsciiStrToLower(ToAbsl(host));
  if (name == "localhost" || name == "[::1]" || absl::EndsWith(name, ".localhost")) return true;
  // 127.0.0.0/8 spelled as four numbers; a name may not pretend with "127.evil.example".
  return absl::StartsWith(name, "127.") && std::count(name.begin(), name.end(), '.') == 3 &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::isdigit(c) != 0 || c == '.'; });
}

}  // namespace

std::string FormatHead(const HttpReply& reply, const std::string& request_id, BodyFraming framing,
                       size_t length, bool keep_alive, bool http_10, absl::Time now) {
  const auto reason = http::obsolete_reason(static_cast<http::status>(reply.status));
  std::string head =
      absl::StrCat(http_10 ? "HTTP/1.0 " : "HTTP/1.1 ", reply.status, " ", ToAbsl(View(reason)),
                   "\r\nServer: fathom\r\nDate: ",
                   absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", now, absl::UTCTimeZone()),
                   "\r\nContent-Type: ", reply.content_type, "\r\nx-request-id: ", request_id,
                   "\r\nX-Content-Type-Options: nosniff\r\n");
  for (const auto& [name, value] : reply.headers) absl::StrAppend(&head, name, ": ", value, "\r\n");
  if (framing == BodyFraming::kLength) absl::StrAppend(&head, "Content-Length: ", length, "\r\n");
  if (framing == BodyFraming::kChunked) absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
  absl::StrAppend(&head, "Connection: ", keep_alive ? "keep-alive" : "close", "\r\n\r\n");
  return head;
}

std::string FormatChunk(std::string_view payload) {
  return absl::StrCat(absl::Hex(payload.size()), "\r\n", ToAbsl(payload), "\r\n");
}

std::string UsableRequestId(std::string_view value) {
  const bool plain = std::all_of(value.begin(), value.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == ':';
  });
  return plain && value.size() <= kRequestIdBytesMax ? std::string(value) : std::string();
}

absl::Status CheckTransferCoding(const http::fields& headers, bool http_10) {
  const auto [first, last] = headers.equal_range(http::field::transfer_encoding);
  if (first == last) return absl::OkStatus();
  if (http_10) return absl::InvalidArgumentError("HTTP/1.0 has no Transfer-Encoding");
  if (std::next(first) != last ||
      !absl::EqualsIgnoreCase(ToAbsl(View(first->value())), "chunked")) {
    return absl::UnimplementedError("the only Transfer-Encoding read here is chunked");
  }
  return absl::OkStatus();
}

absl::Status CheckHostAndOrigin(const http::fields& headers, bool loopback_only, bool http_10) {
  if (headers.count(http::field::host) > 1) {
    return absl::InvalidArgumentError("more than one Host header");
  }
  const std::string_view host = View(headers[http::field::host]);
  if (host.empty() && !http_10) return absl::InvalidArgumentError("no Host header");
  const std::string_view name = HostName(host);
  if (!host.empty() && name.empty()) return absl::InvalidArgumentError("malformed Host header");
  if (loopback_only && !host.empty() && !IsLoopbackName(name)) {
    return absl::PermissionDeniedError("this server answers on loopback names only");
  }
  const auto origin = headers.find(http::field::origin);
  if (origin == headers.end()) return absl::OkStatus();
  const std::string_view value = View(origin->value());
  const size_t scheme = value.find("://");
  if (scheme == std::string_view::npos ||
      !absl::EqualsIgnoreCase(ToAbsl(value.substr(scheme + 3)), ToAbsl(host))) {
    return absl::PermissionDeniedError("requests from other origins are refused");
  }
  return absl::OkStatus();
}

std::string_view TargetOf(std::string_view request_line) {
  const std::string_view line = request_line.substr(0, request_line.find_first_of("\r\n"));
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return {};
  const std::string_view rest = line.substr(space + 1);
  return rest.substr(0, rest.find(' '));
}

std::string PathOf(std::string_view target) {
  if (!target.starts_with('/')) {
    const size_t scheme = target.find("://");
    if (scheme == std::string_view::npos) return {};
    const size_t slash = target.find('/', scheme + 3);
    if (slash == std::string_view::npos) return "/";
    target.remove_prefix(slash);
  }
  return std::string(target.substr(0, target.find_first_of("?#")));
}

std::string DecodePath(std::string_view path) {
  std::string out;
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] != '%') {
      out.push_back(path[i]);
      continue;
    }
    if (i + 2 >= path.size() || std::isxdigit(static_cast<unsigned char>(path[i + 1])) == 0 ||
        std::isxdigit(static_cast<unsigned char>(path[i + 2])) == 0) {
      return {};
    }
    out += absl::HexStringToBytes(ToAbsl(path.substr(i + 1, 2)));
    i += 2;
  }
  return out;
}

}  // namespace fathom::master
