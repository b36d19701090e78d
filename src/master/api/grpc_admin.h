#pragma once

// fathom.v1.Admin: what operators ask of a master. Every call is short and answered at once; who
// may do what is in one table (grpc_admin.cc), and each change leaves a line in the audit log.

#include <grpcpp/grpcpp.h>

#include "fathom/v1/admin.grpc.pb.h"
#include "master/identity/api_keys.h"
#include "master/serving/serving.h"
#include "master/state/cluster_state.h"

namespace fathom::master {

class GrpcAdmin final : public v1::Admin::CallbackService {
 public:
  // All outlive it.
  GrpcAdmin(Serving* serving, const ApiKeys* keys, const ClusterState* cluster)
      : serving_(serving), keys_(keys), cluster_(cluster) {}

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

 private:
  Serving* const serving_;
  const ApiKeys* const keys_;
  const ClusterState* const cluster_;
};

}  // namespace fathom::master
