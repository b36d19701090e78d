#include "master/api/grpc_call.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {

GrpcCalls::Entry::Entry(GrpcCalls& calls) : calls_(calls) {
  const std::lock_guard lock(calls_.mutex_);
  ++calls_.count_;
}

GrpcCalls::Entry::~Entry() {
  const std::lock_guard lock(calls_.mutex_);
  if (--calls_.count_ == 0) calls_.none_.notify_all();
}

bool GrpcCalls::WaitNone(absl::Duration limit) {
  std::unique_lock lock(mutex_);
  return none_.wait_for(lock, absl::ToChronoNanoseconds(limit), [this] { return count_ == 0; });
}

absl::StatusOr<Principal> AuthenticateGrpc(const grpc::ServerContextBase& context,
                                           const ApiKeys& keys) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("authorization");
  if (found == metadata.end()) return keys.AuthenticateHeader(std::nullopt);
  return keys.AuthenticateHeader(std::string_view(found->second.data(), found->second.size()));
}

absl::Duration WithinDeadline(const grpc::ServerContextBase& context, absl::Duration limit) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  return std::max(std::min(limit, absl::FromChrono(left)), absl::Milliseconds(1));
}

// The codes of both are google.rpc.Code.
grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), std::string(Message(status))};
}

void AddFailureDetails(grpc::ServerContextBase* context, const absl::Status& status) {
  if (const auto after = FailureRetryAfter(status)) {
    context->AddTrailingMetadata("retry-after-ms", absl::StrCat(absl::ToInt64Milliseconds(*after)));
  }
  if (const auto code = FailureCode(status))
    context->AddTrailingMetadata("fathom-error-code", *code);
}

void RecordGrpcCall(const std::string& method, const std::string& id, const Principal& principal,
                    const absl::Status& status, int64_t duration_ns, const GenerationUsage& usage,
                    const std::string& peer) {
  const std::string code = absl::StatusCodeToString(status.code());
  AddCounter("fathom_master_grpc_requests_total", "gRPC calls answered",
             {{"method", method}, {"code", code}})
      .Increment();
  LogInfo("access", "grpc call",
          {{"http.request.id", id},
           {"rpc.method", method},
           {"rpc.grpc.status_code", code},
           {"event.duration", duration_ns},
           {"event.outcome", std::string(status.ok() ? "success" : "failure")},
           {"source.address", peer},
           {"user.id", principal.key_id},
           {"labels.tenant", principal.tenant},
           {"labels.prompt_tokens", int64_t{usage.prompt_tokens}},
           {"labels.completion_tokens", int64_t{usage.completion_tokens}},
           {"error.message", std::string(Message(status).substr(0, 256))}});
}

}  // namespace fathom::master
