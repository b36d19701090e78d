#pragma once

// What every gRPC call has in common: who calls, how long the caller waits, what is recorded at the
// end, and who must be waited for before the server ends. Any thread.

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "master/identity/api_keys.h"
#include "master/identity/principal.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// The calls that generate and have not told their client the end. gRPC itself can only wait until
// every connection and every watcher of health has gone as well, which they may never do.
class GrpcCalls {
 public:
  // One call, from its start until gRPC has told its client the end.
  class Entry {
   public:
    explicit Entry(GrpcCalls& calls);
    ~Entry();
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    GrpcCalls& calls_;
  };

  // True when there are none any more.
  bool WaitNone(absl::Duration limit);

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int64_t count_ = 0;  // protected by mutex_
};

absl::StatusOr<Principal> AuthenticateGrpc(const grpc::ServerContextBase& context,
                                           const ApiKeys& keys);

// The time limit of a request or what is left of its caller's own deadline, whichever is shorter.
absl::Duration WithinDeadline(const grpc::ServerContextBase& context, absl::Duration limit);

grpc::Status ToGrpc(const absl::Status& status);

// What a status cannot say, in trailing metadata: when to come back (retry-after-ms), and the code
// for programs that OpenAI's dialect has in its error body (fathom-error-code).
void AddFailureDetails(grpc::ServerContextBase* context, const absl::Status& status);

// Counts the call and writes its line in the access log.
void RecordGrpcCall(const std::string& method, const std::string& id, const Principal& principal,
                    const absl::Status& status, int64_t duration_ns, const GenerationUsage& usage,
                    const std::string& peer);

}  // namespace fathom::master
