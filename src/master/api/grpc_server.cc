#include "master/api/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>

#include <chrono>
#include <utility>

#include "common/status_macros.h"

namespace fathom::master {
namespace {

using std::chrono::milliseconds;

// A client that is gone without a word is asked after so long, and has so long to answer: what it
// had asked for is cancelled then. gRPC's own default is two hours.
constexpr milliseconds kPingAfter = std::chrono::seconds(30);
constexpr milliseconds kPingTimeout = std::chrono::seconds(20);
// Clients behind balancers ping while they wait for a long answer; the default cuts those off that
// do so more often than every five minutes.
constexpr milliseconds kClientPingsEvery = std::chrono::seconds(9);
constexpr milliseconds kFarewell(200);
// Clients come back by themselves.
constexpr milliseconds kIdle = std::chrono::minutes(15);

void BoundConnections(const GrpcServerOptions& options, grpc::ServerBuilder& builder) {
  const auto set = [&](const char* name, int value) { builder.AddChannelArgument(name, value); };
  const auto set_time = [&](const char* name, milliseconds time) {
    set(name, static_cast<int>(time.count()));
  };
  set(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.connections);
  set_time(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, options.handshake);
  set_time(GRPC_ARG_KEEPALIVE_TIME_MS, kPingAfter);
  set_time(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeout);
  // As many as it takes, also before a request's first token.
  set(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  set_time(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kClientPingsEvery);
  set_time(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdle);
  set_time(GRPC_ARG_MAX_CONNECTION_AGE_MS, options.connection_age);
}

// Plugins are global to gRPC: they are chosen before the first server is built.
void EnableOnce(bool reflection) {
  grpc::EnableDefaultHealthCheckService(true);
  if (reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services,
    GrpcAsyncPart* async) {
  EnableOnce(options.reflection);
  std::unique_ptr<GrpcServer> server(new GrpcServer);
  ASSIGN_OR_RETURN(server->listener_, GrpcListener::Listen({.name = options.name,
                                                            .bind = options.bind,
                                                            .port = options.port,
                                                            .connections = options.connections,
                                                            .of = options.of,
                                                            .unacknowledged = kPingTimeout}));
  grpc::ServerBuilder builder;
  server->listener_->AddTo(builder, grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes));
  BoundConnections(options, builder);
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (async != nullptr) async->AddTo(builder);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) {
    if (async != nullptr) async->End();
    return absl::InternalError("gRPC makes no server");
  }
  server->async_ = async;
  if (async != nullptr) async->Begin();
  if (grpc::HealthCheckServiceInterface* health = server->server_->GetHealthCheckService()) {
    // Known by name from now on: SetReady speaks for all of them at once, so that a watcher hears
    // of every change once.
    for (const std::string& name : options.health_names) {
      health->SetServingStatus(name, false);
    }
  }
  server->SetReady(false);
  server->listener_->Start();
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
  listener_->Stop();
  // Clients hear first that the connection goes: a call that crosses that news is answered, and one
  // after it is refused in a way that tells its client to go elsewhere. Cut off it would seem to
  // have been cancelled by somebody.
  server_->Shutdown(std::chrono::system_clock::now() + kFarewell);
  server_->Wait();
  if (async_ != nullptr) async_->End();
  server_ = nullptr;
}

}  // namespace fathom::master
