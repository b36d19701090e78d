#include "master/api/admin_rights.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/grpc_call.h"

namespace fathom::master {
namespace {

constexpr size_t kSubjectBytesMax = 256;
// A refusal's payload, which stays here: whose key it was.
constexpr absl::string_view kWho = "fathom/who";

struct Right {
  AdminAction action;
  std::string_view role;
  bool own_tenant_only = false;
};

constexpr std::array kRights{
    Right{AdminAction::kSeeWorkers, "admin"},
    Right{AdminAction::kSeeWorkers, "auditor"},
    Right{AdminAction::kSeeMasters, "admin"},
    Right{AdminAction::kSeeMasters, "auditor"},
    Right{AdminAction::kDrainWorker, "admin"},
    Right{AdminAction::kSeeRequests, "admin"},
    Right{AdminAction::kSeeRequests, "auditor"},
    Right{AdminAction::kSeeRequests, "developer", /*own_tenant_only=*/true},
    Right{AdminAction::kSeeCatalog, "admin"},
    Right{AdminAction::kSeeCatalog, "auditor"},
    Right{AdminAction::kChangeCatalog, "admin"},
};

std::string WhoOf(const absl::StatusOr<AdminCaller>& caller) {
  if (caller.ok()) return caller->principal.key_id;
  return std::string(caller.status().GetPayload(kWho).value_or(absl::Cord()));
}

}  // namespace

absl::StatusOr<AdminCaller> AuthorizeAdmin(const grpc::CallbackServerContext& context,
                                           const ApiKeys& keys, AdminAction action) {
  ASSIGN_OR_RETURN(Principal principal, AuthenticateGrpc(context, keys));
  const auto* right = std::find_if(kRights.begin(), kRights.end(), [&](const Right& r) {
    return r.action == action && r.role == principal.role;
  });
  if (right == kRights.end()) {
    absl::Status denied = absl::PermissionDeniedError(
        absl::StrCat("a key of the role ", principal.role, " may not do this"));
    denied.SetPayload(kWho, absl::Cord(ToAbsl(principal.key_id)));
    return denied;
  }
  AdminCaller caller{.principal = std::move(principal), .tenant = {}};
  if (right->own_tenant_only) caller.tenant = caller.principal.tenant;
  return caller;
}

void AuditAdmin(std::string_view what, const absl::Status& status,
                const absl::StatusOr<AdminCaller>& caller, const std::string& peer,
                const std::string& subject) {
  LogInfo("audit", what,
          {{"event.category", std::string("configuration")},
           {"event.outcome", std::string(status.ok() ? "success" : "failure")},
           {"user.id", WhoOf(caller)},
           {"source.address", peer},
           {"labels.subject", subject.substr(0, kSubjectBytesMax)},
           {"error.message", std::string(Message(status))}});
}

grpc::ServerUnaryReactor* FinishAdmin(grpc::CallbackServerContext* context,
                                      const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace fathom::master
