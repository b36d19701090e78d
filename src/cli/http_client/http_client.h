#pragma once

// A small HTTP/1.1 client: one connection, kept alive between requests, answers whole or piece by
// piece. One thread uses it; Cancel and Resume may come from any. Nothing waits forever: connecting
// and every read and write have a time limit.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/http_client/url.h"

namespace fathom::cli {

struct HttpOptions {
  std::string key;  // sent as `Authorization: Bearer`; empty: none
  absl::Duration connect_timeout = absl::Seconds(5);
  // Silence after which the server counts as gone. Long: a queued request may wait.
  absl::Duration idle_timeout = absl::Minutes(10);
};

struct HttpResponse {
  int status = 0;
  std::string content_type;
  int retry_after_s = 0;  // 0: not given
  std::string body;       // empty where a sink took it
};

class HttpClient {
 public:
  static constexpr size_t kBodyBytesMax = 64 << 20;

  // Gets the pieces of the body of a 200 answer as they come; an error ends the request.
  using Sink = std::function<absl::Status(std::string_view)>;
  using Headers = std::vector<std::pair<std::string, std::string>>;  // name and value

  HttpClient(Url url, HttpOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // UNAVAILABLE when the server cannot be reached or breaks the connection, DEADLINE_EXCEEDED when
  // it is silent, CANCELLED after Cancel, RESOURCE_EXHAUSTED for a body over the limit. HTTP
  // statuses other than 200 are answers, not errors.
  absl::StatusOr<HttpResponse> Get(std::string_view target);
  absl::StatusOr<HttpResponse> Post(std::string_view target, std::string body_json,
                                    const Sink& sink = nullptr, const Headers& headers = {});

  // Ends the request under way and refuses later ones, until Resume.
  void Cancel();
  void Resume();

  const Url& url() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::cli
