#pragma once

// What every gRPC call has in common: who calls, how long the caller waits, what is recorded at the
// end. Any thread.

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "master/identity/api_keys.h"
#include "master/identity/principal.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

absl::StatusOr<Principal> AuthenticateGrpc(const grpc::CallbackServerContext& context,
                                           const ApiKeys& keys);

// The time limit of a request or what is left of its caller's own deadline, whichever is shorter.
absl::Duration WithinDeadline(const grpc::CallbackServerContext& context, absl::Duration limit);

grpc::Status ToGrpc(const absl::Status& status);

// Retry-After of the failure, in trailing metadata.
void AddRetryAfter(grpc::CallbackServerContext* context, const absl::Status& status);

// Counts the call and writes its line in the access log.
void RecordGrpcCall(const std::string& method, const std::string& id, const Principal& principal,
                    const absl::Status& status, int64_t duration_ns, const GenerationUsage& usage,
                    const std::string& peer);

}  // namespace fathom::master
