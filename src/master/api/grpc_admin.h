#pragma once

// fathom.v1.Admin: what operators ask of a master. Every call is short; changes of the catalogue
// are answered when the database has them. Who may do what is in one table (admin_rights), and each
// change leaves a line in the audit log.

#include <grpcpp/grpcpp.h>

#include <functional>
#include <string>
#include <string_view>

#include "fathom/v1/admin.grpc.pb.h"
#include "master/identity/api_keys.h"
#include "master/models/catalog_keeper.h"
#include "master/serving/serving.h"
#include "master/state/cluster_state.h"

namespace fathom::master {

class GrpcAdmin final : public v1::Admin::CallbackService {
 public:
  // All outlive it.
  GrpcAdmin(Serving* serving, const ApiKeys* keys, const ClusterState* cluster,
            CatalogKeeper* catalog)
      : serving_(serving), keys_(keys), cluster_(cluster), catalog_(catalog) {}

  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;
  grpc::ServerUnaryReactor* ListMasters(grpc::CallbackServerContext* context,
                                        const v1::ListMastersRequest* request,
                                        v1::ListMastersResponse* response) override;
  grpc::ServerUnaryReactor* DrainWorker(grpc::CallbackServerContext* context,
                                        const v1::DrainWorkerRequest* request,
                                        v1::DrainWorkerResponse* response) override;
  grpc::ServerUnaryReactor* ListRequests(grpc::CallbackServerContext* context,
                                         const v1::ListRequestsRequest* request,
                                         v1::ListRequestsResponse* response) override;
  grpc::ServerUnaryReactor* ExplainRequest(grpc::CallbackServerContext* context,
                                           const v1::ExplainRequestRequest* request,
                                           v1::ExplainRequestResponse* response) override;

  // In grpc_admin_catalog.cc.
  grpc::ServerUnaryReactor* ListCatalog(grpc::CallbackServerContext* context,
                                        const v1::ListCatalogRequest* request,
                                        v1::ListCatalogResponse* response) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const v1::LoadModelRequest* request,
                                      v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* ReloadModel(grpc::CallbackServerContext* context,
                                        const v1::ReloadModelRequest* request,
                                        v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse* response) override;
  grpc::ServerUnaryReactor* SetRoute(grpc::CallbackServerContext* context,
                                     const v1::SetRouteRequest* request,
                                     v1::RouteResponse* response) override;
  grpc::ServerUnaryReactor* SetCanary(grpc::CallbackServerContext* context,
                                      const v1::SetCanaryRequest* request,
                                      v1::RouteResponse* response) override;
  grpc::ServerUnaryReactor* RollbackRoute(grpc::CallbackServerContext* context,
                                          const v1::RollbackRouteRequest* request,
                                          v1::RollbackRouteResponse* response) override;
  grpc::ServerUnaryReactor* DropRoute(grpc::CallbackServerContext* context,
                                      const v1::DropRouteRequest* request,
                                      v1::RouteResponse* response) override;

 private:
  using Done = std::function<void(const absl::Status&)>;
  // `act` if the caller may change the catalogue; it is over with the call of what it gets, which
  // writes the audit line and answers.
  grpc::ServerUnaryReactor* Start(grpc::CallbackServerContext* context, std::string_view what,
                                  std::string subject, const std::function<void(Done)>& act);
  grpc::ServerUnaryReactor* Make(grpc::CallbackServerContext* context, std::string_view what,
                                 std::string subject, CatalogKeeper::Change change);

  Serving* const serving_;
  const ApiKeys* const keys_;
  const ClusterState* const cluster_;
  CatalogKeeper* const catalog_;
};

}  // namespace fathom::master
