#include "master/api/kserve_service.h"

#include <boost/asio/strand.hpp>
#include <utility>

#include "common/status_macros.h"
#include "master/api/caller.h"
#include "master/api/grpc_call.h"
#include "master/api/kserve_infer.h"
#include "master/api/kserve_model.h"
#include "master/api/kserve_request.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  AddFailureDetails(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// Answers at once with the status of `work`, which fills the response, if the caller shows a key.
template <typename Work>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const ApiKeys& keys,
                                 Work work) {
  const absl::StatusOr<Principal> principal = AuthenticateGrpc(*context, keys);
  return Finish(context, principal.ok() ? work() : principal.status());
}

}  // namespace

grpc::ServerUnaryReactor* KserveService::ServerLive(grpc::CallbackServerContext* context,
                                                    const inference::ServerLiveRequest* /*request*/,
                                                    inference::ServerLiveResponse* response) {
  response->set_live(true);
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::ServerReady(
    grpc::CallbackServerContext* context, const inference::ServerReadyRequest* /*request*/,
    inference::ServerReadyResponse* response) {
  response->set_ready(serving_->Ready().ok());
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::ModelReady(grpc::CallbackServerContext* context,
                                                    const inference::ModelReadyRequest* request,
                                                    inference::ModelReadyResponse* response) {
  return Answer(context, *keys_, [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const ModelPtr model,
                     FindKserveModel(*serving_->catalog(), request->name(), request->version()));
    response->set_ready(KserveModelReady(*serving_, *model).ok());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* KserveService::ServerMetadata(
    grpc::CallbackServerContext* context, const inference::ServerMetadataRequest* /*request*/,
    inference::ServerMetadataResponse* response) {
  return Answer(context, *keys_, [&] {
    *response = KserveServerMetadata();
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* KserveService::ModelMetadata(
    grpc::CallbackServerContext* context, const inference::ModelMetadataRequest* request,
    inference::ModelMetadataResponse* response) {
  return Answer(context, *keys_, [&]() -> absl::Status {
    const CatalogPtr catalog = serving_->catalog();
    ASSIGN_OR_RETURN(const ModelPtr model,
                     FindKserveModel(*catalog, request->name(), request->version()));
    *response = KserveMetadata(*catalog, *model);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* KserveService::ModelConfig(grpc::CallbackServerContext* context,
                                                     const inference::ModelConfigRequest* request,
                                                     inference::ModelConfigResponse* response) {
  return Answer(context, *keys_, [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const ModelPtr model,
                     FindKserveModel(*serving_->catalog(), request->name(), request->version()));
    *response->mutable_config() = KserveConfig(*model);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* KserveService::ModelStatistics(
    grpc::CallbackServerContext* context, const inference::ModelStatisticsRequest* request,
    inference::ModelStatisticsResponse* response) {
  return Answer(context, *keys_, [&]() -> absl::Status {
    ASSIGN_OR_RETURN(*response, KserveStatistics(*serving_, request->name(), request->version()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* KserveService::RepositoryIndex(
    grpc::CallbackServerContext* context, const inference::RepositoryIndexRequest* request,
    inference::RepositoryIndexResponse* response) {
  return Answer(context, *keys_, [&]() -> absl::Status {
    ASSIGN_OR_RETURN(*response, KserveIndex(*serving_, *request));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* KserveService::RepositoryModelLoad(
    grpc::CallbackServerContext* context, const inference::RepositoryModelLoadRequest* request,
    inference::RepositoryModelLoadResponse* /*response*/) {
  return Answer(context, *keys_, [&] { return KserveLoad(*serving_->catalog(), *request); });
}

grpc::ServerUnaryReactor* KserveService::RepositoryModelUnload(
    grpc::CallbackServerContext* context, const inference::RepositoryModelUnloadRequest* request,
    inference::RepositoryModelUnloadResponse* /*response*/) {
  return Answer(context, *keys_, [&] { return KserveUnload(*serving_->catalog(), *request); });
}

grpc::ServerUnaryReactor* KserveService::ModelInfer(grpc::CallbackServerContext* context,
                                                    const inference::ModelInferRequest* request,
                                                    inference::ModelInferResponse* response) {
  const auto refuse = [&](const absl::Status& status, const Principal& principal) {
    RecordGrpcCall("ModelInfer", "", principal, status, 0, {}, context->peer());
    return Finish(context, status);
  };
  const absl::StatusOr<Principal> principal = AuthenticateGrpc(*context, *keys_);
  if (!principal.ok()) return refuse(principal.status(), {});
  if (serving_->draining()) {
    return refuse(
        WithRetryAfter(absl::UnavailableError("the server is shutting down"), absl::Seconds(1)),
        *principal);
  }
  absl::StatusOr<KserveRequest> parsed = ReadKserveRequest(
      *request, *serving_->catalog(), options_.timeout_max, {.id = serving_->NewId()});
  if (!parsed.ok()) return refuse(parsed.status(), *principal);
  if (parsed->stream.value_or(false)) {
    return refuse(
        BadField("stream", "ModelInfer answers as a whole; use ModelStreamInfer for streams"),
        *principal);
  }
  GenerationRequest& generation = parsed->generation;
  BelongTo(*principal, generation);
  generation.timeout = WithinDeadline(*context, generation.timeout);
  return StartKserveInfer(boost::asio::make_strand(io_), context, *serving_, *std::move(parsed),
                          *principal, response, *calls_);
}

KserveStreamReactor* KserveService::ModelStreamInfer(grpc::CallbackServerContext* context) {
  const absl::StatusOr<Principal> principal = AuthenticateGrpc(*context, *keys_);
  if (!principal.ok()) {
    RecordGrpcCall("ModelStreamInfer", "", {}, principal.status(), 0, {}, context->peer());
    return RefuseKserveStream(context, principal.status());
  }
  return StartKserveStream(boost::asio::make_strand(io_), context, *serving_, options_, *principal,
                           streams_, *calls_);
}

}  // namespace fathom::master
