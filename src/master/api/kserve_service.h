#pragma once

// The Open Inference Protocol (KServe v2) over gRPC. Callback API only. Every call but ServerLive
// and ServerReady shows a key.

#include <grpcpp/grpcpp.h>

#include <boost/asio/io_context.hpp>

#include "inference/kserve.grpc.pb.h"
#include "master/api/kserve_stream.h"
#include "master/identity/api_keys.h"
#include "master/serving/serving.h"

namespace fathom::master {

class KserveService final : public inference::GRPCInferenceService::CallbackService {
 public:
  // All outlive it; `io` runs on the I/O threads.
  KserveService(const KserveGrpcOptions& options, boost::asio::io_context& io, Serving* serving,
                const ApiKeys* keys, GrpcCalls* calls)
      : options_(options), io_(io), serving_(serving), keys_(keys), calls_(calls) {}

  // Streams end with UNAVAILABLE when they have no request in work: at once, if idle. Any thread.
  void Drain() { streams_.Drain(); }

  grpc::ServerUnaryReactor* ServerLive(grpc::CallbackServerContext* context,
                                       const inference::ServerLiveRequest* request,
                                       inference::ServerLiveResponse* response) override;
  grpc::ServerUnaryReactor* ServerReady(grpc::CallbackServerContext* context,
                                        const inference::ServerReadyRequest* request,
                                        inference::ServerReadyResponse* response) override;
  grpc::ServerUnaryReactor* ModelReady(grpc::CallbackServerContext* context,
                                       const inference::ModelReadyRequest* request,
                                       inference::ModelReadyResponse* response) override;
  grpc::ServerUnaryReactor* ServerMetadata(grpc::CallbackServerContext* context,
                                           const inference::ServerMetadataRequest* request,
                                           inference::ServerMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelMetadata(grpc::CallbackServerContext* context,
                                          const inference::ModelMetadataRequest* request,
                                          inference::ModelMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelConfig(grpc::CallbackServerContext* context,
                                        const inference::ModelConfigRequest* request,
                                        inference::ModelConfigResponse* response) override;
  grpc::ServerUnaryReactor* ModelStatistics(grpc::CallbackServerContext* context,
                                            const inference::ModelStatisticsRequest* request,
                                            inference::ModelStatisticsResponse* response) override;
  grpc::ServerUnaryReactor* RepositoryIndex(grpc::CallbackServerContext* context,
                                            const inference::RepositoryIndexRequest* request,
                                            inference::RepositoryIndexResponse* response) override;
  grpc::ServerUnaryReactor* RepositoryModelLoad(
      grpc::CallbackServerContext* context, const inference::RepositoryModelLoadRequest* request,
      inference::RepositoryModelLoadResponse* response) override;
  grpc::ServerUnaryReactor* RepositoryModelUnload(
      grpc::CallbackServerContext* context, const inference::RepositoryModelUnloadRequest* request,
      inference::RepositoryModelUnloadResponse* response) override;
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const inference::ModelInferRequest* request,
                                       inference::ModelInferResponse* response) override;
  KserveStreamReactor* ModelStreamInfer(grpc::CallbackServerContext* context) override;

 private:
  const KserveGrpcOptions options_;
  boost::asio::io_context& io_;
  Serving* const serving_;
  const ApiKeys* const keys_;
  GrpcCalls* const calls_;
  KserveStreams streams_;
};

}  // namespace fathom::master
