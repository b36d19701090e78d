#include "master/api/kserve_http.h"

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/fields.h"
#include "master/api/kserve_json.h"
#include "master/api/kserve_model.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace http = boost::beast::http;
namespace json = boost::json;

bool IsInference(KservePlace place) {
  return place == KservePlace::kInfer || place == KservePlace::kGenerate ||
         place == KservePlace::kGenerateStream;
}

// What the stock client sends has no type, or bytes. Forms and texts, which any web page may send
// without asking, are refused.
bool IsGoodType(std::string_view content_type) {
  const std::string_view type = content_type.substr(0, content_type.find(';'));
  const auto plain = absl::StripAsciiWhitespace(ToAbsl(type));
  return plain.empty() || absl::EqualsIgnoreCase(plain, "application/json") ||
         absl::EqualsIgnoreCase(plain, "application/octet-stream");
}

// The JSON of load, unload and index; nothing is an empty object.
absl::StatusOr<json::object> OptionalObject(const std::string& body) {
  if (body.empty()) return json::object();
  return ParseJsonObject(body);
}

absl::Status Load(const Catalog& catalog, const KservePath& path, const std::string& body) {
  ASSIGN_OR_RETURN(const json::object object, OptionalObject(body));
  inference::RepositoryModelLoadRequest request;
  request.set_model_name(path.model);
  Fields fields(object);
  if (const json::object* parameters = fields.Object("parameters")) {
    for (const json::key_value_pair& member : *parameters) {
      (*request.mutable_parameters())[std::string(member.key())];
    }
  }
  fields.CheckUnread();
  RETURN_IF_ERROR(fields.status());
  return KserveLoad(catalog, request);
}

absl::StatusOr<std::string> Index(const Serving& serving, const std::string& body) {
  ASSIGN_OR_RETURN(const json::object object, OptionalObject(body));
  inference::RepositoryIndexRequest request;
  Fields fields(object);
  bool ready = false;
  fields.Read("ready", ready);
  fields.CheckUnread();
  RETURN_IF_ERROR(fields.status());
  request.set_ready(ready);
  ASSIGN_OR_RETURN(const inference::RepositoryIndexResponse index, KserveIndex(serving, request));
  std::string out = "[";
  for (const auto& model : index.models()) {
    if (out.size() > 1) out += ',';
    out += MessageJson(model);
  }
  return out + "]";
}

}  // namespace

std::optional<HttpReply> KserveHttp::Admit(const HttpCall& call) const {
  const KservePlace place = ParseKservePath(call.path).place;
  if (place == KservePlace::kNone) return KserveError(404, "there is no such place here");
  const bool post = KserveIsPost(place);
  const bool get = call.method == http::verb::get || call.method == http::verb::head;
  if (post ? call.method != http::verb::post : !get) {
    HttpReply reply = KserveError(405, "this place does not know that method");
    reply.headers.emplace_back("Allow", post ? "POST" : "GET, HEAD");
    return reply;
  }
  const auto type = call.headers[http::field::content_type];
  if (post && !IsGoodType({type.data(), type.size()})) {
    return KserveError(415, "the body must be application/json or application/octet-stream");
  }
  if (!call.headers[http::field::content_encoding].empty()) {
    return KserveError(415, "encoded bodies are not read here");
  }
  if (IsInference(place) && serving_->draining()) {
    return KserveError(
        WithRetryAfter(absl::UnavailableError("the server is shutting down"), absl::Seconds(1)));
  }
  return std::nullopt;
}

void KserveHttp::Handle(HttpCall call, std::shared_ptr<HttpExchange> exchange) const {
  KservePath path = ParseKservePath(call.path);
  if (IsInference(path.place)) {
    std::make_shared<KserveCall>(std::move(path), *serving_, options_, std::move(call),
                                 std::move(exchange))
        ->Start();
    return;
  }
  absl::StatusOr<HttpReply> reply = Answer(path, call);
  if (!reply.ok()) exchange->record().error = Message(reply.status());
  exchange->Reply(reply.ok() ? *std::move(reply) : KserveError(reply.status()));
}

absl::StatusOr<HttpReply> KserveHttp::Answer(const KservePath& path, const HttpCall& call) const {
  const CatalogPtr snapshot = serving_->catalog();
  const Catalog& catalog = *snapshot;
  switch (path.place) {
    case KservePlace::kReady:
      RETURN_IF_ERROR(serving_->Ready());
      return HttpReply{};
    case KservePlace::kServer:
      return HttpReply{.body = MessageJson(KserveServerMetadata())};
    case KservePlace::kModel: {
      ASSIGN_OR_RETURN(const ModelPtr model, FindKserveModel(catalog, path.model, path.version));
      return HttpReply{.body = MessageJson(KserveMetadata(catalog, *model))};
    }
    case KservePlace::kModelReady: {
      ASSIGN_OR_RETURN(const ModelPtr model, FindKserveModel(catalog, path.model, path.version));
      RETURN_IF_ERROR(KserveModelReady(*serving_, *model));
      return HttpReply{};
    }
    case KservePlace::kConfig: {
      ASSIGN_OR_RETURN(const ModelPtr model, FindKserveModel(catalog, path.model, path.version));
      return HttpReply{.body = MessageJson(KserveConfig(*model))};
    }
    case KservePlace::kStats: {
      ASSIGN_OR_RETURN(const auto statistics,
                       KserveStatistics(*serving_, path.model, path.version));
      return HttpReply{.body = MessageJson(statistics)};
    }
    case KservePlace::kIndex: {
      ASSIGN_OR_RETURN(std::string index, Index(*serving_, call.body));
      return HttpReply{.body = std::move(index)};
    }
    case KservePlace::kLoad:
      RETURN_IF_ERROR(Load(catalog, path, call.body));
      return HttpReply{};
    case KservePlace::kUnload: {
      inference::RepositoryModelUnloadRequest request;
      request.set_model_name(path.model);
      RETURN_IF_ERROR(KserveUnload(catalog, request));
      return HttpReply{};
    }
    default:
      return HttpReply{};  // alive
  }
}

}  // namespace fathom::master
