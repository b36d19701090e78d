#pragma once

// One Generate call. The call lives on a strand of its own; the reactor, which gRPC owns by way of
// OnDone, only posts to it.
//
// Invariants: at most one write is in flight; Finish is called exactly once and nothing after it;
// the usage rides on the stream's last message.

#include <grpcpp/grpcpp.h>

#include <boost/asio/any_io_executor.hpp>
#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "fathom/v1/inference.pb.h"
#include "master/api/delta_buffer.h"
#include "master/api/grpc_call.h"
#include "master/api/resume.h"
#include "master/identity/principal.h"
#include "master/serving/serving.h"

namespace fathom::master {

using GenerateReactor = grpc::ServerWriteReactor<v1::GenerateResponse>;

// Starts a generation and returns the reactor that carries its answer. `calls` outlives it.
GenerateReactor* StartGrpcGenerate(boost::asio::any_io_executor strand,
                                   grpc::CallbackServerContext* context, Serving& serving,
                                   GenerationRequest request, const ResumePlan& resume,
                                   const Principal& principal, size_t client_backlog_bytes,
                                   GrpcCalls& calls);

// A call that ends at once.
GenerateReactor* RefuseGrpcGenerate(grpc::CallbackServerContext* context,
                                    const absl::Status& status);

}  // namespace fathom::master
