#pragma once

// Who may do what on the operators' port: what is not in the table is refused.

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/statusor.h"
#include "master/identity/api_keys.h"

namespace fathom::master {

enum class AdminAction {
  kSeeWorkers,
  kSeeMasters,
  kDrainWorker,
  kSeeRequests,
  kSeeCatalog,
  kChangeCatalog
};

struct AdminCaller {
  Principal principal;
  std::string tenant;  // whose requests it may see; empty: everybody's
};

absl::StatusOr<AdminCaller> AuthorizeAdmin(const grpc::CallbackServerContext& context,
                                           const ApiKeys& keys, AdminAction action);

// A line of the audit log for a change, done or refused. `subject`: what it is about.
void AuditAdmin(std::string_view what, const absl::Status& status,
                const absl::StatusOr<AdminCaller>& caller, const std::string& peer,
                const std::string& subject);

grpc::ServerUnaryReactor* FinishAdmin(grpc::CallbackServerContext* context,
                                      const absl::Status& status);

}  // namespace fathom::master
