#pragma once

// One ModelStreamInfer call: any number of requests at a time over one stream, each answered piece
// by piece in its own pace. The call lives on a strand of its own; the reactor, which gRPC owns by
// way of OnDone, only posts to it.
//
// Invariants: at most one read and one write are in flight; every request has exactly one last
// response; Finish is called exactly once and nothing after it; once drained, a stream ends as soon
// as it has no request in work. Requests in work are bounded in number: beyond it nothing more is
// read. What waits for the client is bounded in bytes.

#include <grpcpp/grpcpp.h>

#include <boost/asio/any_io_executor.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "inference/kserve.pb.h"
#include "master/api/grpc_call.h"
#include "master/identity/principal.h"
#include "master/serving/serving.h"

namespace fathom::master {

using KserveStreamReactor =
    grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>;

struct KserveGrpcOptions {
  absl::Duration timeout_max = absl::Minutes(10);
  size_t client_backlog_bytes = size_t{4} << 20;  // of a whole stream
};

// The streams there are. Any thread.
class KserveStreams {
 public:
  // Tells every stream, and each that is added later, to end when it is idle.
  void Drain();

  // `drain` only posts. Called at once when Drain was called before.
  uint64_t Add(std::function<void()> drain);
  void Remove(uint64_t stream);

 private:
  std::mutex mutex_;
  // State below is protected by mutex_.
  bool draining_ = false;
  uint64_t next_ = 1;
  std::unordered_map<uint64_t, std::function<void()>> streams_;
};

// `streams` and `calls` outlive the call.
KserveStreamReactor* StartKserveStream(const boost::asio::any_io_executor& strand,
                                       grpc::CallbackServerContext* context, Serving& serving,
                                       const KserveGrpcOptions& options, const Principal& principal,
                                       KserveStreams& streams, GrpcCalls& calls);

// A call that ends at once.
KserveStreamReactor* RefuseKserveStream(grpc::CallbackServerContext* context,
                                        const absl::Status& status);

}  // namespace fathom::master
