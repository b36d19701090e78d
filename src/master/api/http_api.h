#pragma once

// The master's HTTP surface: who may come in, which place answers what. Stateless but for what it
// points to; any strand.

#include <memory>
#include <optional>
#include <string_view>

#include "master/api/http_exchange.h"
#include "master/api/kserve_http.h"
#include "master/api/openai_call.h"
#include "master/identity/api_keys.h"
#include "master/serving/serving.h"

namespace fathom::master {

struct HttpApiOptions {
  OpenAiOptions openai;
  KserveHttpOptions kserve;
  bool loopback_only = true;  // Host must name loopback
};

class HttpApi final : public HttpHandler {
 public:
  // `serving` and `keys` outlive it.
  HttpApi(const HttpApiOptions& options, Serving* serving, const ApiKeys* keys)
      : options_(options), kserve_(options.kserve, serving), serving_(serving), keys_(keys) {}

  std::optional<HttpReply> Admit(HttpCall& call, HttpRecord& record) override;
  void Handle(HttpCall call, std::shared_ptr<HttpExchange> exchange) override;
  HttpReply Complaint(const HttpCall& call, int status, std::string_view message) override;
  void Done(const HttpCall& call, int status, int64_t duration_ns,
            const HttpRecord& record) override;

 private:
  HttpReply Models() const;
  HttpReply OneModel(std::string_view path) const;
  HttpReply Ready() const;

  const HttpApiOptions options_;
  const KserveHttp kserve_;
  Serving* const serving_;
  const ApiKeys* const keys_;
};

}  // namespace fathom::master
