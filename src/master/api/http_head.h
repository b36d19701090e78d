#pragma once

// HTTP/1 heads as text, and the checks on what a head may claim.

#include <boost/beast/http/fields.hpp>
#include <boost/beast/http/message.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "master/api/http_exchange.h"

namespace fathom::master {

enum class BodyFraming { kLength, kChunked, kUntilClose };

// The status line and headers of an answer, blank line included. `length` is used with kLength.
std::string FormatHead(const HttpReply& reply, const std::string& request_id, BodyFraming framing,
                       size_t length, bool keep_alive, bool http_10, absl::Time now);

// One chunk of a chunked body.
std::string FormatChunk(std::string_view payload);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

// A client's x-request-id, if it is short and plain enough to print; else empty.
std::string UsableRequestId(std::string_view value);

// A page in a browser must not reach a server on loopback by way of a name it controls (DNS
// rebinding), nor from another origin. On loopback Host must name loopback; elsewhere it must only
// be there. An Origin must be the Host itself.
absl::Status CheckHostAndOrigin(const boost::beast::http::fields& headers, bool loopback_only,
                                bool http_10);

// Where a body ends must be read alike by every server on the way, or what one takes for a body the
// next takes for a request. UNIMPLEMENTED for a transfer coding other than chunked,
// INVALID_ARGUMENT for one in HTTP/1.0, which has none.
absl::Status CheckTransferCoding(const boost::beast::http::fields& headers, bool http_10);

// "/v1/models" of "GET /v1/models HTTP/1.1", of which there may be less or more; empty when there
// is no target in it.
std::string_view TargetOf(std::string_view request_line);
// "/v1/models" of "/v1/models?x=1" or "http://host/v1/models"; empty when it is neither.
std::string PathOf(std::string_view target);
// Percent-decoding; empty when malformed.
std::string DecodePath(std::string_view path);

}  // namespace fathom::master
