#pragma once

// KServe v2 over HTTP: everything below /v2. The owner has checked Host, Origin and key. Stateless
// but for what it points to; any strand.

#include <memory>
#include <optional>

#include "master/api/http_exchange.h"
#include "master/api/kserve_call.h"
#include "master/api/kserve_path.h"
#include "master/serving/serving.h"

namespace fathom::master {

class KserveHttp {
 public:
  // `serving` outlives it.
  KserveHttp(const KserveHttpOptions& options, Serving* serving)
      : options_(options), serving_(serving) {}

  // With the head alone: an answer here ends the request.
  std::optional<HttpReply> Admit(const HttpCall& call) const;
  void Handle(HttpCall call, std::shared_ptr<HttpExchange> exchange) const;

 private:
  absl::StatusOr<HttpReply> Answer(const KservePath& path, const HttpCall& call) const;

  const KserveHttpOptions options_;
  Serving* const serving_;
};

}  // namespace fathom::master
