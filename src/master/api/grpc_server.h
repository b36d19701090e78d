#pragma once

// The gRPC listener: the services given to it, grpc.health.v1 and, when asked for, reflection.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/listen/descriptor_reserve.h"
#include "common/listen/grpc_listener.h"

namespace fathom::master {

// A part of a server that uses the asynchronous API, on threads of its own.
class GrpcAsyncPart {
 public:
  virtual ~GrpcAsyncPart() = default;
  // Its completion queues.
  virtual void AddTo(grpc::ServerBuilder& builder) = 0;
  // The server listens.
  virtual void Begin() = 0;
  // It is shut down, or was never built. May come twice.
  virtual void End() = 0;
};

struct GrpcServerOptions {
  std::string name = "grpc";  // of the port, in logs and metrics
  std::string bind = "127.0.0.1";
  uint16_t port = 0;  // 0: any free one
  size_t message_bytes = size_t{32} << 20;
  int connections = 4096;  // at once, and calls of one of them
  DescriptorClass of = DescriptorClass::kClients;
  // A new connection may take so long to say that it speaks HTTP/2.
  std::chrono::milliseconds handshake{10'000};
  // A connection that is older is told to begin no further call; those that run end undisturbed.
  std::chrono::milliseconds connection_age{300'000};
  bool reflection = false;
  // That grpc.health.v1 knows by name; SetReady speaks for all of them.
  std::vector<std::string> health_names;
};

class GrpcServer {
 public:
  // Errors name the address. The services, and `async`, outlive it.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, const std::vector<grpc::Service*>& services,
      GrpcAsyncPart* async = nullptr);
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  uint16_t port() const { return listener_->port(); }
  // What grpc.health.v1 says. Any thread.
  void SetReady(bool ready);
  // Cancels the calls there are and returns when all are done. Once. It does not wait for them:
  // gRPC would wait for idle connections too, as long as it may.
  void Shutdown();

 private:
  GrpcServer() = default;
  std::unique_ptr<GrpcListener> listener_;
  std::unique_ptr<grpc::Server> server_;
  GrpcAsyncPart* async_ = nullptr;
};

}  // namespace fathom::master
