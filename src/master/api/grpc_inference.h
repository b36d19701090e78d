#pragma once

// The gRPC dialect: fathom.v1.Inference over the same generations as HTTP. What waits is bounded.

#include <grpcpp/grpcpp.h>

#include <boost/asio/io_context.hpp>
#include <cstddef>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "master/api/grpc_call.h"
#include "master/api/grpc_convert.h"
#include "master/api/grpc_generate.h"
#include "master/api/grpc_loop.h"
#include "master/api/grpc_server.h"
#include "master/api/resume.h"
#include "master/identity/api_keys.h"
#include "master/serving/serving.h"

namespace fathom::master {

struct GrpcInferenceOptions {
  GrpcBounds bounds;
  size_t client_backlog_bytes = size_t{4} << 20;
  int threads = 1;  // for streams
};

class GrpcInference final : public InferenceService, public GrpcAsyncPart {
 public:
  // All outlive it; timers of streams run in `io`.
  GrpcInference(const GrpcInferenceOptions& options, boost::asio::io_context& io, Serving* serving,
                const ApiKeys* keys, GrpcCalls* calls);

  void AddTo(grpc::ServerBuilder& builder) override;
  void Begin() override;
  void End() override;

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
  absl::StatusOr<OpenedGenerate> Open(const grpc::ServerContext& context,
                                      const v1::GenerateRequest& request, Principal* principal);
  // Runs `work`, whose status ends the call, on the CPU pool.
  grpc::ServerUnaryReactor* OnPool(grpc::CallbackServerContext* context,
                                   std::function<absl::Status()> work);

  const GrpcInferenceOptions options_;
  boost::asio::io_context& io_;
  Serving* const serving_;
  const ApiKeys* const keys_;
  const GenerateHost host_;
  struct Lane {
    Lane(std::unique_ptr<grpc::ServerCompletionQueue> queue, boost::asio::io_context& io)
        : loop(std::move(queue), io) {}
    GrpcLoop loop;
    v1::GenerateResponse scratch;  // the loop's
  };
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace fathom::master
