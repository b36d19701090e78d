#pragma once

// One call of fathom.v1.Admin: key, time limit, and gRPC's status as ours.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <string>

#include "absl/status/statusor.h"
#include "fathom/v1/admin.grpc.pb.h"

namespace fathom::cli {

template <typename Request, typename Response>
absl::StatusOr<Response> CallAdmin(
    v1::Admin::Stub& stub, const std::string& key, std::chrono::milliseconds limit,
    grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    const Request& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + limit);
  if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (status.ok()) return response;
  // gRPC says nothing of a server that speaks something else.
  if (status.error_message().empty()) {
    return absl::UnavailableError("what answers there is no master's operator port");
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace fathom::cli
