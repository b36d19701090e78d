#include "master/api/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

// Plugins are global to gRPC: they are chosen before the first server is built.
void EnableOnce(bool reflection) {
  grpc::EnableDefaultHealthCheckService(true);
  if (reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services) {
  EnableOnce(options.reflection);
  const bool v6 = options.bind.find(':') != std::string::npos;
  const std::string address =
      absl::StrCat(v6 ? "[" : "", options.bind, v6 ? "]:" : ":", options.port);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes));
  // A port shared by accident would split the traffic between two servers.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.connections);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<GrpcServer> server(new GrpcServer);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen for gRPC on ", address));
  }
  server->port_ = static_cast<uint16_t>(port);
  if (grpc::HealthCheckServiceInterface* health = server->server_->GetHealthCheckService()) {
    // Known by name from now on: SetReady speaks for all of them at once, so that a watcher hears
    // of every change once.
    for (const char* name : {"fathom.v1.Inference", "inference.GRPCInferenceService"}) {
      health->SetServingStatus(name, false);
    }
  }
  server->SetReady(false);
  return server;
}

GrpcServer::~GrpcServer() {
  if (server_ != nullptr) Shutdown();
}

void GrpcServer::SetReady(bool ready) {
  if (grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService()) {
    health->SetServingStatus(ready);
  }
}

void GrpcServer::Shutdown() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_ = nullptr;
}

}  // namespace fathom::master
