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
#include <string>

#include "absl/status/status.h"
#include "fathom/v1/inference.pb.h"
#include "master/api/delta_buffer.h"
#include "master/identity/principal.h"
#include "master/serving/serving.h"

namespace fathom::master {

using GenerateReactor = grpc::ServerWriteReactor<v1::GenerateResponse>;

// Starts a generation and returns the reactor that carries its answer.
GenerateReactor* StartGrpcGenerate(boost::asio::any_io_executor strand,
                                   grpc::CallbackServerContext* context, Serving& serving,
                                   GenerationRequest request, const Principal& principal,
                                   size_t client_backlog_bytes);

// A call that ends at once.
GenerateReactor* RefuseGrpcGenerate(grpc::CallbackServerContext* context,
                                    const absl::Status& status);

// Retry-After of the failure, in trailing metadata.
void AddRetryAfter(grpc::CallbackServerContext* context, const absl::Status& status);

// Counts the call and writes its line in the access log.
void RecordGrpcCall(const std::string& method, const std::string& id, const Principal& principal,
                    const absl::Status& status, int64_t duration_ns, const GenerationUsage& usage,
                    const std::string& peer);

}  // namespace fathom::master
