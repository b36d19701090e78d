#include "master/api/http_api.h"

#include <boost/asio/post.hpp>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/json_text.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/strings.h"
#include "common/version.h"
#include "master/api/chat_page.h"
#include "master/api/errors.h"
#include "master/api/find_model.h"
#include "master/api/http_head.h"
#include "master/api/http_metrics.h"
#include "master/api/kserve_json.h"
#include "master/api/kserve_path.h"
#include "master/api/tokenize_call.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace http = boost::beast::http;

constexpr std::string_view kModelsPrefix = "/v1/models/";

enum class Place {
  kNone,
  kPage,
  kHealth,
  kReady,
  kMetrics,
  kVersion,
  kModels,
  kModel,
  kChat,
  kCompletion,
  kTokenize,
  kDetokenize,
  kKserve  // everything below /v2
};

Place PlaceOf(std::string_view path) {
  if (path == "/health") return Place::kHealth;
  if (path == "/ready") return Place::kReady;
  if (path == "/metrics") return Place::kMetrics;
  if (path == "/version") return Place::kVersion;
  if (path == "/v1/models") return Place::kModels;
  if (path == "/v1/chat/completions") return Place::kChat;
  if (path == "/v1/completions") return Place::kCompletion;
  if (path == "/tokenize") return Place::kTokenize;
  if (path == "/detokenize") return Place::kDetokenize;
  if (path.starts_with(kModelsPrefix)) return Place::kModel;
  if (FindPageFile(path) != nullptr) return Place::kPage;
  if (IsKservePath(path)) return Place::kKserve;
  return Place::kNone;
}

bool NeedsKey(Place place, std::string_view path) {
  if (place == Place::kKserve) return KserveNeedsKey(ParseKservePath(path).place);
  return place != Place::kHealth && place != Place::kReady && place != Place::kMetrics &&
         place != Place::kVersion && place != Place::kPage;
}

bool IsPost(Place place) {
  return place == Place::kChat || place == Place::kCompletion || place == Place::kTokenize ||
         place == Place::kDetokenize;
}

std::string_view Header(const http::fields& fields, http::field name) {
  const auto value = fields[name];
  return {value.data(), value.size()};
}

// Absent is taken for JSON: plain curl -d says form data, which is refused.
bool IsJson(std::string_view content_type) {
  if (content_type.empty()) return true;
  const std::string_view type = content_type.substr(0, content_type.find(';'));
  return absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(ToAbsl(type)), "application/json");
}

// `id`: the model's name, or that of a route which leads to it.
std::string ModelJson(std::string_view id, const ServedModelInfo& model) {
  std::string out = R"({"id":)";
  AppendJsonString(out, id);
  absl::StrAppend(&out, R"(,"object":"model","created":)", absl::ToUnixSeconds(model.created),
                  R"(,"owned_by":"fathom","max_model_len":)", model.context_length, "}");
  return out;
}

}  // namespace

std::optional<HttpReply> HttpApi::Admit(HttpCall& call, HttpRecord& record) {
  const absl::Status host = CheckHostAndOrigin(call.headers, options_.loopback_only, call.http_10);
  if (!host.ok()) {
    record.error = Message(host);
    return IsKservePath(call.path) ? KserveError(host) : ErrorReply(host);
  }
  const Place place = PlaceOf(call.path);
  if (NeedsKey(place, call.path)) {
    const auto header = call.headers.find(http::field::authorization);
    std::optional<std::string_view> value;
    if (header != call.headers.end()) {
      value.emplace(header->value().data(), header->value().size());
    }
    absl::StatusOr<Principal> principal = keys_->AuthenticateHeader(value);
    if (!principal.ok()) {
      record.error = Message(principal.status());
      return place == Place::kKserve ? KserveError(principal.status())
                                     : ErrorReply(principal.status());
    }
    call.principal = *std::move(principal);
    record.key_id = call.principal.key_id;
    record.tenant = call.principal.tenant;
  }
  if (place == Place::kKserve) return kserve_.Admit(call);
  if (place == Place::kNone) return ErrorReply(404, "there is no such place here");
  const bool get = call.method == http::verb::get || call.method == http::verb::head;
  if (IsPost(place) ? call.method != http::verb::post : !get) {
    HttpReply reply = ErrorReply(405, "this place does not know that method");
    reply.headers.emplace_back("Allow", IsPost(place) ? "POST" : "GET, HEAD");
    return reply;
  }
  if (IsPost(place) && !IsJson(Header(call.headers, http::field::content_type))) {
    return ErrorReply(415, "the body must be application/json");
  }
  if (!Header(call.headers, http::field::content_encoding).empty()) {
    return ErrorReply(415, "encoded bodies are not read here");
  }
  if (IsPost(place) && serving_->draining()) {
    return ErrorReply(
        WithRetryAfter(absl::UnavailableError("the server is shutting down"), absl::Seconds(1)));
  }
  return std::nullopt;
}

void HttpApi::Handle(HttpCall call, std::shared_ptr<HttpExchange> exchange) {
  const Place place = PlaceOf(call.path);
  switch (place) {
    case Place::kChat:
    case Place::kCompletion: {
      const OpenAiKind kind = place == Place::kChat ? OpenAiKind::kChat : OpenAiKind::kCompletion;
      std::make_shared<OpenAiCall>(kind, *serving_, options_.openai, std::move(call),
                                   std::move(exchange))
          ->Start();
      return;
    }
    case Place::kTokenize:
      return AnswerOnPool(TokenizeBody, *serving_, std::move(call), exchange);
    case Place::kDetokenize:
      return AnswerOnPool(DetokenizeBody, *serving_, std::move(call), exchange);
    case Place::kPage:
      return exchange->Reply(
          PageReply(*FindPageFile(call.path), Header(call.headers, http::field::if_none_match)));
    case Place::kKserve:
      return kserve_.Handle(std::move(call), std::move(exchange));
    case Place::kModels:
      return exchange->Reply(Models());
    case Place::kModel:
      return exchange->Reply(OneModel(call.path));
    case Place::kReady:
      return exchange->Reply(Ready());
    case Place::kVersion:
      return exchange->Reply({.body = absl::StrCat(R"({"version":")", kVersion, "\"}")});
    case Place::kMetrics: {
      // Rendering takes milliseconds: not on an I/O thread.
      const bool accepted = serving_->pool().Submit([serving = serving_, exchange] {
        serving->RefreshMetrics();
        auto text = std::make_shared<std::string>(RenderMetrics());
        boost::asio::post(exchange->strand(), [exchange, text] {
          exchange->Reply({.content_type = "text/plain; version=0.0.4; charset=utf-8",
                           .body = std::move(*text)});
        });
      });
      if (!accepted) exchange->Reply(ErrorReply(503, "too busy to render metrics"));
      return;
    }
    default:
      return exchange->Reply({.body = R"({"status":"ok"})"});
  }
}

HttpReply HttpApi::Models() const {
  std::string out = R"({"object":"list","data":[)";
  bool first = true;
  const auto add = [&](std::string_view id, const ServedModelInfo& model) {
    if (!std::exchange(first, false)) out += ',';
    out += ModelJson(id, model);
  };
  const CatalogPtr catalog = serving_->catalog();
  for (const CatalogRoute& route : catalog->routes()) {
    if (const ModelPtr model = catalog->Find(route.name)) add(route.name, *model);
  }
  for (const ModelPtr& model : catalog->models()) {
    if (!catalog->IsRoute(model->name)) add(model->name, *model);
  }
  out += "]}";
  return {.body = std::move(out)};
}

HttpReply HttpApi::OneModel(std::string_view path) const {
  const std::string name = DecodePath(path.substr(kModelsPrefix.size()));
  const absl::StatusOr<ModelPtr> model = FindNamedModel(*serving_->catalog(), name, {}, "model");
  if (!model.ok()) return ErrorReply(model.status());
  return {.body = ModelJson(name, **model)};
}

HttpReply HttpApi::Ready() const {
  const absl::Status ready = serving_->Ready();
  if (ready.ok()) return {.body = R"({"status":"ready"})"};
  return ErrorReply(503, Message(ready));
}

HttpReply HttpApi::Complaint(const HttpCall& call, int status, std::string_view message) {
  return IsKservePath(call.path) ? KserveError(status, message) : ErrorReply(status, message);
}

void HttpApi::Done(const HttpCall& call, int status, int64_t duration_ns,
                   const HttpRecord& record) {
  const Place place = PlaceOf(call.path);
  const double seconds = static_cast<double>(duration_ns) * 1e-9;
  std::string counted = IsPost(place) ? call.path : "other";
  if (place == Place::kKserve) counted = KservePlaceName(ParseKservePath(call.path).place);
  HttpMetrics::Get().Count(counted, status, seconds);
  // Probes come every second from everywhere.
  const bool probe = !NeedsKey(place, call.path) && status < 400;
  const LogLevel level = probe ? LogLevel::kDebug : LogLevel::kInfo;
  if (!LogEnabled(level)) return;
  const auto verb = http::to_string(call.method);
  Log(level, "access", "http request",
      {{"http.request.id", call.request_id},
       {"http.request.method", std::string(verb.data(), verb.size())},
       {"url.path", call.path.substr(0, 256)},
       {"http.response.status_code", int64_t{status}},
       {"event.duration", duration_ns},
       {"event.outcome", std::string(status < 400 ? "success" : "failure")},
       {"source.ip", call.peer},
       {"user.id", record.key_id},
       {"labels.tenant", record.tenant},
       {"labels.model", record.model},
       {"labels.request", record.request},
       {"labels.prompt_tokens", int64_t{record.prompt_tokens}},
       {"labels.completion_tokens", int64_t{record.completion_tokens}},
       {"error.message", record.error.substr(0, 256)}});
}

}  // namespace fathom::master
