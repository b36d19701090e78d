#pragma once

// Accepts the connections of a gRPC server. gRPC's own listener drops its socket for ever when
// accept fails once, as it does without a free descriptor, and it takes any number of connections.
// This one waits and tries again, and closes connections that are too many: a client tries another
// server then, where one left in the queue would wait.
//
// Order: Listen, AddTo a builder, BuildAndStart, Start, ..., Stop, then the server's Shutdown.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/listen/descriptor_reserve.h"
#include "common/listen/open_sockets.h"
#include "common/metrics.h"

namespace fathom {

struct GrpcListenerOptions {
  std::string name;        // of the port, in logs and metrics
  std::string bind;        // an IP address
  uint16_t port = 0;       // 0: any free one
  int connections = 4096;  // at once
  DescriptorClass of = DescriptorClass::kClients;
  // A peer that acknowledges nothing for so long is gone; 0: as long as the kernel tries.
  std::chrono::milliseconds unacknowledged{0};
  const Clock* clock = Clock::Real();
};

class GrpcListener {
 public:
  // UNAVAILABLE, with the address, when it cannot be had. Peers may connect from now on, and wait.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Listen(GrpcListenerOptions options);
  ~GrpcListener();  // stops
  GrpcListener(const GrpcListener&) = delete;
  GrpcListener& operator=(const GrpcListener&) = delete;

  uint16_t port() const { return port_; }
  void AddTo(grpc::ServerBuilder& builder, std::shared_ptr<grpc::ServerCredentials> credentials);
  void Start();
  // No connection comes after it, and the port is free.
  void Stop();

 private:
  enum class Outcome { kTaken, kNothing, kShort };

  explicit GrpcListener(GrpcListenerOptions options);
  absl::Status Bind();
  void Run();
  Outcome Accept();
  void Take(int fd);
  bool StopsWithin(std::chrono::milliseconds wait) const;

  const GrpcListenerOptions options_;
  prometheus::Counter& refused_;
  prometheus::Counter& failures_;
  uint16_t port_ = 0;
  int listener_ = -1;
  int wake_ = -1;  // readable: stop
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::thread thread_;
  // State below is the thread's.
  OpenSockets open_;
  bool short_ = false;  // of descriptors or memory, at the last accept
};

}  // namespace fathom
