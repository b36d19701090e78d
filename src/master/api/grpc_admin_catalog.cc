// The part of fathom.v1.Admin that is about models.

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "master/api/admin_rights.h"
#include "master/api/catalog_status.h"
#include "master/api/grpc_admin.h"
#include "master/api/grpc_call.h"
#include "master/models/model_size.h"

namespace fathom::master {
namespace {

constexpr size_t kPathBytesMax = 4096;
constexpr size_t kNameBytesMax = 256;
constexpr int64_t kReplicasMax = 4096;

absl::StatusOr<RouteTargets> ReadTargets(
    const google::protobuf::RepeatedPtrField<v1::RouteShare>& shares) {
  RouteTargets targets;
  for (const v1::RouteShare& share : shares) {
    targets.push_back({.model = share.model(), .weight = share.weight()});
  }
  RETURN_IF_ERROR(CheckTargets(targets));
  return targets;
}

absl::Status CheckVersion(const std::string& name, int64_t version) {
  RETURN_IF_ERROR(CheckRouteName(name));
  if (version >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError("version: counts from 1");
}

// The row of a new version, once its files have been looked at.
absl::StatusOr<ModelVersionRow> ReadVersion(const v1::LoadModelRequest& request) {
  if (request.path().empty() || request.path().size() > kPathBytesMax ||
      request.path().front() != '/') {
    return absl::InvalidArgumentError("path: an absolute path is needed");
  }
  ModelVersionRow row{.name = request.name(),
                      .path = std::filesystem::path(request.path()).lexically_normal().string(),
                      .pool = request.pool(),
                      .replicas = request.replicas() == 0 ? 1 : request.replicas(),
                      .kv_cache_bytes = request.kv_cache_bytes(),
                      .reasoning_parser = request.reasoning_parser(),
                      .tool_parser = request.tool_parser()};
  if (row.path.size() > 1 && row.path.back() == '/') row.path.pop_back();
  if (row.name.empty()) row.name = std::filesystem::path(row.path).filename().string();
  RETURN_IF_ERROR(CheckRouteName(row.name));
  if (row.pool.size() > kNameBytesMax) return absl::InvalidArgumentError("pool: too long");
  if (row.replicas < ModelVersionRow::kEverywhere || row.replicas > kReplicasMax) {
    return absl::InvalidArgumentError(absl::StrCat("replicas: 1 to ", kReplicasMax, ", or -1"));
  }
  if (row.kv_cache_bytes < 0 || row.kv_cache_bytes > int64_t{1} << 50) {
    return absl::InvalidArgumentError("kv_cache_bytes: out of range");
  }
  row.version = 1;  // for its name in errors
  RETURN_IF_ERROR(LoadVersion(row).status());
  ASSIGN_OR_RETURN(const int64_t weights, WeightBytes(row.path));
  if (row.kv_cache_bytes == 0) row.kv_cache_bytes = DefaultKvCacheBytes(weights);
  row.memory_bytes = EstimateMemoryBytes(weights, row.kv_cache_bytes);
  return row;
}

void Answer(const ModelVersionRow& row, v1::LoadModelResponse* response) {
  response->set_name(row.name);
  response->set_version(row.version);
  response->set_model(ModelNameOf(row.name, row.version));
}

}  // namespace

grpc::ServerUnaryReactor* GrpcAdmin::Start(grpc::CallbackServerContext* context,
                                           std::string_view what, std::string subject,
                                           const std::function<void(Done)>& act) {
  const auto caller = AuthorizeAdmin(*context, *keys_, AdminAction::kChangeCatalog);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Done done = [reactor, what = std::string(what), caller, peer = context->peer(),
               subject = std::move(subject)](const absl::Status& status) {
    AuditAdmin(what, status, caller, peer, subject);
    reactor->Finish(ToGrpc(status));
  };
  if (caller.ok()) {
    act(std::move(done));
  } else {
    done(caller.status());
  }
  return reactor;
}

grpc::ServerUnaryReactor* GrpcAdmin::Make(grpc::CallbackServerContext* context,
                                          std::string_view what, std::string subject,
                                          CatalogKeeper::Change change) {
  return Start(context, what, std::move(subject),
               [&](Done done) { catalog_->Post(std::move(change), std::move(done)); });
}

grpc::ServerUnaryReactor* GrpcAdmin::ListCatalog(grpc::CallbackServerContext* context,
                                                 const v1::ListCatalogRequest* request,
                                                 v1::ListCatalogResponse* response) {
  const auto caller = AuthorizeAdmin(*context, *keys_, AdminAction::kSeeCatalog);
  if (!caller.ok()) return FinishAdmin(context, caller.status());
  const std::shared_ptr<const FleetSnapshot> fleet = serving_->fleet().Snapshot();
  const CatalogPtr catalog = serving_->catalog();
  for (const ModelPtr& model : catalog_->configured()) {
    *response->add_versions() = StatusOf(*model, *fleet);
  }
  const std::shared_ptr<const CatalogRows> rows = catalog_->rows();
  if (rows == nullptr) {
    return FinishAdmin(context,
                       absl::UnavailableError("the database has not told the catalogue yet"));
  }
  for (const ModelVersionRow& row : rows->versions) {
    v1::CatalogVersion status =
        StatusOf(row, *fleet, catalog->WhyAbsent(ModelNameOf(row.name, row.version)));
    if (!request->retired() && status.state() == "retired") continue;
    *response->add_versions() = std::move(status);
  }
  for (const RouteRow& row : rows->routes) *response->add_routes() = StatusOf(row);
  return FinishAdmin(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* GrpcAdmin::LoadModel(grpc::CallbackServerContext* context,
                                               const v1::LoadModelRequest* request,
                                               v1::LoadModelResponse* response) {
  return Start(context, "load model", absl::StrCat(request->name(), " from ", request->path()),
               [&](const Done& done) {
                 // Files are read, and a template is tried.
                 const bool accepted = serving_->pool().Submit([this, request, response, done] {
                   absl::StatusOr<ModelVersionRow> row = ReadVersion(*request);
                   if (!row.ok()) return done(row.status());
                   catalog_->Post(
                       [row = *std::move(row), replace = request->replace(),
                        response](CatalogChanges& changes) -> absl::Status {
                         ASSIGN_OR_RETURN(const ModelVersionRow added, changes.Add(row, replace));
                         Answer(added, response);
                         return absl::OkStatus();
                       },
                       done);
                 });
                 if (!accepted)
                   done(absl::ResourceExhaustedError("too much work waits for the CPU"));
               });
}

grpc::ServerUnaryReactor* GrpcAdmin::ReloadModel(grpc::CallbackServerContext* context,
                                                 const v1::ReloadModelRequest* request,
                                                 v1::LoadModelResponse* response) {
  return Make(context, "reload model", ModelNameOf(request->name(), request->version()),
              [request, response](CatalogChanges& changes) -> absl::Status {
                RETURN_IF_ERROR(CheckVersion(request->name(), request->version()));
                ASSIGN_OR_RETURN(const ModelVersionRow row,
                                 changes.Reload(request->name(), request->version()));
                Answer(row, response);
                return absl::OkStatus();
              });
}

grpc::ServerUnaryReactor* GrpcAdmin::UnloadModel(grpc::CallbackServerContext* context,
                                                 const v1::UnloadModelRequest* request,
                                                 v1::UnloadModelResponse* /*response*/) {
  return Make(context, "unload model", ModelNameOf(request->name(), request->version()),
              [request](CatalogChanges& changes) -> absl::Status {
                RETURN_IF_ERROR(CheckVersion(request->name(), request->version()));
                return changes.Unload(request->name(), request->version());
              });
}

grpc::ServerUnaryReactor* GrpcAdmin::SetRoute(grpc::CallbackServerContext* context,
                                              const v1::SetRouteRequest* request,
                                              v1::RouteResponse* /*response*/) {
  const auto shares =
      absl::StrJoin(request->targets(), ",", [](std::string* out, const v1::RouteShare& share) {
        absl::StrAppend(out, share.model(), "=", share.weight());
      });
  return Make(context, "set route", absl::StrCat(request->name(), " to ", shares),
              [request](CatalogChanges& changes) -> absl::Status {
                ASSIGN_OR_RETURN(const RouteTargets targets, ReadTargets(request->targets()));
                return changes.SetRoute(request->name(), targets);
              });
}

grpc::ServerUnaryReactor* GrpcAdmin::SetCanary(grpc::CallbackServerContext* context,
                                               const v1::SetCanaryRequest* request,
                                               v1::RouteResponse* /*response*/) {
  return Make(context, "set canary",
              absl::StrCat(request->name(), " to ", request->canary().model(), "=",
                           request->canary().weight()),
              [request](CatalogChanges& changes) {
                return changes.Canary(request->name(), request->canary().model(),
                                      request->canary().weight());
              });
}

grpc::ServerUnaryReactor* GrpcAdmin::RollbackRoute(grpc::CallbackServerContext* context,
                                                   const v1::RollbackRouteRequest* request,
                                                   v1::RollbackRouteResponse* response) {
  return Make(context, "roll back route", request->name(),
              [request, response](CatalogChanges& changes) -> absl::Status {
                ASSIGN_OR_RETURN(const RouteRollback rollback, changes.Rollback(request->name()));
                response->mutable_loading()->Add(rollback.loading.begin(), rollback.loading.end());
                FillShares(rollback.targets, *response->mutable_targets());
                return absl::OkStatus();
              });
}

grpc::ServerUnaryReactor* GrpcAdmin::DropRoute(grpc::CallbackServerContext* context,
                                               const v1::DropRouteRequest* request,
                                               v1::RouteResponse* /*response*/) {
  return Make(context, "drop route", request->name(),
              [request](CatalogChanges& changes) { return changes.DropRoute(request->name()); });
}

}  // namespace fathom::master
