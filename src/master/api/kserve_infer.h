#pragma once

// One ModelInfer call over gRPC: the whole answer in one response. The call lives on a strand of
// its own; the reactor, which gRPC owns by way of OnDone, only posts to it.

#include <grpcpp/grpcpp.h>

#include <boost/asio/any_io_executor.hpp>

#include "inference/kserve.pb.h"
#include "master/api/grpc_call.h"
#include "master/api/kserve_request.h"
#include "master/identity/principal.h"
#include "master/serving/serving.h"

namespace fathom::master {

// Starts the generation; the reactor returned ends when it does. `calls` outlives it.
grpc::ServerUnaryReactor* StartKserveInfer(const boost::asio::any_io_executor& strand,
                                           grpc::CallbackServerContext* context, Serving& serving,
                                           KserveRequest request, const Principal& principal,
                                           inference::ModelInferResponse* response,
                                           GrpcCalls& calls);

}  // namespace fathom::master
