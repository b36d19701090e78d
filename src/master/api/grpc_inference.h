#pragma once

// The gRPC dialect: fathom.v1.Inference over the same generations as HTTP. Callback API only:
// reactors do nothing but post to the call's strand; one write is in flight; what waits is bounded.

#include <grpcpp/grpcpp.h>

#include <boost/asio/io_context.hpp>
#include <cstddef>

#include "fathom/v1/inference.grpc.pb.h"
#include "master/api/grpc_call.h"
#include "master/api/grpc_convert.h"
#include "master/api/resume.h"
#include "master/identity/api_keys.h"
#include "master/serving/serving.h"

namespace fathom::master {

struct GrpcInferenceOptions {
  GrpcBounds bounds;
  size_t client_backlog_bytes = size_t{4} << 20;
};

class GrpcInference final : public v1::Inference::CallbackService {
 public:
  // All outlive it; `io` runs on the I/O threads.
  GrpcInference(const GrpcInferenceOptions& options, boost::asio::io_context& io, Serving* serving,
                const ApiKeys* keys, GrpcCalls* calls)
      : options_(options), io_(io), serving_(serving), keys_(keys), calls_(calls) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  // Runs `work`, whose status ends the call, on the CPU pool.
  grpc::ServerUnaryReactor* OnPool(grpc::CallbackServerContext* context,
                                   std::function<absl::Status()> work);

  const GrpcInferenceOptions options_;
  boost::asio::io_context& io_;
  Serving* const serving_;
  const ApiKeys* const keys_;
  GrpcCalls* const calls_;
};

}  // namespace fathom::master
