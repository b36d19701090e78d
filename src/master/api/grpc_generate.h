#pragma once

// The calls of Generate: one after another is taken in, opened, and carries its generation's answer
// to its client. Each lives on one loop, on whose thread all of it runs.
//
// Invariants: at most one write is in flight; Finish is called exactly once and nothing after it;
// the usage rides on the stream's last message.

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <functional>

#include "absl/status/statusor.h"
#include "fathom/v1/inference.grpc.pb.h"
#include "master/api/grpc_call.h"
#include "master/api/grpc_loop.h"
#include "master/api/resume.h"
#include "master/identity/principal.h"
#include "master/serving/serving.h"

namespace fathom::master {

// fathom.v1.Inference; streams use the asynchronous API, all else callbacks.
using InferenceService = v1::Inference::WithAsyncMethod_Generate<
    v1::Inference::WithCallbackMethod_ListModels<v1::Inference::WithCallbackMethod_Tokenize<
        v1::Inference::WithCallbackMethod_Detokenize<v1::Inference::Service>>>>;

struct OpenedGenerate {
  GenerationRequest request;
  ResumePlan resume;
};

// What the calls share; outlives them.
struct GenerateHost {
  InferenceService* service = nullptr;
  Serving* serving = nullptr;
  GrpcCalls* calls = nullptr;
  size_t client_backlog_bytes = 0;
  // Who calls, and what is to be done; a principal also where it is refused, once it is known.
  std::function<absl::StatusOr<OpenedGenerate>(const grpc::ServerContext&,
                                               const v1::GenerateRequest&, Principal*)>
      open;
};

// Takes calls in on this loop until the server shuts down. All its calls write by way of `scratch`,
// which is near at hand then; it outlives them.
void ServeGenerate(const GenerateHost& host, GrpcLoop& loop, v1::GenerateResponse& scratch);

}  // namespace fathom::master
