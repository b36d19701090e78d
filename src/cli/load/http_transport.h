#pragma once

// Load over HTTP/1.1: thousands of streams on one thread or a few, connections kept alive between
// requests.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/http_client/url.h"
#include "cli/load/transport.h"

namespace fathom::cli {

struct HttpTransportOptions {
  Url url;
  std::string key;  // sent as `Authorization: Bearer`; empty: none
  RequestOptions request;
  bool as_chat = false;  // text prompts become chats
  int threads = 1;
  absl::Duration timeout = absl::Minutes(10);  // of a request, from its sending
};

// UNAVAILABLE when the host cannot be resolved.
absl::StatusOr<std::unique_ptr<LoadTransport>> MakeHttpTransport(HttpTransportOptions options);

}  // namespace fathom::cli
