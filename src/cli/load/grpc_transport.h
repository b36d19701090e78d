#pragma once

// Load over our own gRPC API (Inference.Generate), on gRPC's threads.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/load/transport.h"

namespace fathom::cli {

// Over a few connections to `address` (host:port). UNAVAILABLE when nobody answers there, or
// UNAUTHENTICATED when the key is refused.
absl::StatusOr<std::unique_ptr<LoadTransport>> MakeGrpcTransport(const std::string& address,
                                                                 const std::string& key,
                                                                 const RequestOptions& options);

}  // namespace fathom::cli
