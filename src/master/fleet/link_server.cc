#include "master/fleet/link_server.h"

#include <grpcpp/grpcpp.h>

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/listen/grpc_listener.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "fathom/v1/link.grpc.pb.h"
#include "master/fleet/link_hub.h"
#include "master/fleet/link_messages.h"

namespace fathom::master {
namespace {

constexpr int kMessageBytesMax = 64 << 20;
// A worker has one, and the largest fleet that is routed among some thousands.
constexpr int kConnectionsMax = 8192;
// Whoever has not shown a certificate by then makes room for others.
constexpr int kHandshakeMs = 20'000;

// The one place where the link's server credentials are made.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const LinkServerOptions& options) {
  if (options.tls.empty()) {
    if (options.insecure) return grpc::InsecureServerCredentials();
    return absl::InvalidArgumentError(
        "workers' link has neither TLS (link_tls: ca, certificate, key) nor insecure_link");
  }
  RETURN_IF_ERROR(CheckTlsFiles(options.tls, kMasterTlsName, options.clock->Now()));
  return LinkServerCredentials(options.tls);
}

class Service final : public v1::Link::CallbackService {
 public:
  explicit Service(std::shared_ptr<LinkHub> hub) : hub_(std::move(hub)) {}

  grpc::ServerBidiReactor<v1::WorkerControl, v1::MasterControl>* Control(
      grpc::CallbackServerContext* context) override {
    return hub_->OpenControl(context);
  }
  grpc::ServerBidiReactor<v1::WorkerData, v1::MasterData>* Data(
      grpc::CallbackServerContext* context) override {
    return hub_->OpenData(context);
  }
  grpc::ServerBidiReactor<v1::WorkerBulk, v1::MasterBulk>* Bulk(
      grpc::CallbackServerContext* context) override {
    return hub_->OpenBulk(context);
  }

 private:
  const std::shared_ptr<LinkHub> hub_;
};

}  // namespace

std::string HostPort(const std::string& host, int port) {
  const bool bare_v6 = host.find(':') != std::string::npos && !host.starts_with('[');
  return bare_v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

struct LinkServer::Impl {
  std::shared_ptr<LinkHub> hub;
  std::unique_ptr<Service> service;
  std::unique_ptr<GrpcListener> listener;
  std::unique_ptr<grpc::Server> server;
  std::once_flag stopped;

  absl::Status Order(const WorkerKey& worker, v1::MasterControl message) const {
    const auto session = hub->registry().Find(worker);
    if (session != nullptr && session->SendControl(std::move(message))) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("worker '", worker.id, "' is not linked"));
  }
};

LinkServer::LinkServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LinkServer::~LinkServer() { Stop(); }

absl::StatusOr<std::unique_ptr<LinkServer>> LinkServer::Start(LinkServerOptions options) {
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ServerCredentials> credentials,
                   MakeCredentials(options));
  auto impl = std::make_unique<Impl>();
  ASSIGN_OR_RETURN(impl->listener,
                   GrpcListener::Listen({.name = "link",
                                         .bind = options.bind,
                                         .port = static_cast<uint16_t>(options.port),
                                         .connections = kConnectionsMax,
                                         .of = DescriptorClass::kPeers,
                                         .clock = options.clock}));
  impl->hub = std::make_shared<LinkHub>(std::move(options));
  impl->service = std::make_unique<Service>(impl->hub);

  grpc::ServerBuilder builder;
  impl->listener->AddTo(builder, credentials);
  builder.RegisterService(impl->service.get());
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr) return absl::InternalError("gRPC makes no server for workers");
  impl->hub->StartTicking();
  impl->listener->Start();
  return std::unique_ptr<LinkServer>(new LinkServer(std::move(impl)));
}

int LinkServer::port() const { return impl_->listener->port(); }

void LinkServer::Stop() {
  std::call_once(impl_->stopped, [this] {
    impl_->listener->Stop();
    impl_->hub->Stop();
    // No grace: the sessions have been told, and other streams have nothing to lose.
    impl_->server->Shutdown(std::chrono::system_clock::now());
    impl_->server->Wait();
    impl_->hub->WaitForStreams();
  });
}

std::shared_ptr<const FleetSnapshot> LinkServer::Snapshot() const {
  return impl_->hub->registry().Snapshot();
}

void LinkServer::OnChange(std::function<void(FleetNews)> callback) {
  impl_->hub->registry().OnChange(std::move(callback));
}

void LinkServer::OnCacheUpdate(std::function<void(const WorkerKey&, const CacheUpdate&)> callback) {
  impl_->hub->registry().OnCacheUpdate(std::move(callback));
}

absl::Status LinkServer::Submit(const WorkerKey& worker, Submission submission,
                                std::shared_ptr<SubmissionListener> listener) {
  const auto session = impl_->hub->registry().Find(worker);
  if (session == nullptr) {
    return absl::UnavailableError(absl::StrCat("worker '", worker.id, "' is not linked"));
  }
  absl::Status status = session->Submit(std::move(submission), std::move(listener),
                                        impl_->hub->options().clock->MonotonicNs());
  if (status.ok()) impl_->hub->registry().Stale();
  return status;
}

void LinkServer::Cancel(const WorkerKey& worker, const std::string& request_id, uint32_t attempt,
                        std::vector<int32_t> choices) {
  const auto session = impl_->hub->registry().Find(worker);
  if (session != nullptr) session->Cancel(request_id, attempt, std::move(choices));
}

void LinkServer::Claim(const ClaimRequest& request, std::shared_ptr<SubmissionListener> listener,
                       std::function<void(ClaimOutcome)> done) {
  impl_->hub->Claim(request, std::move(listener), std::move(done));
}

absl::Status LinkServer::Drain(const std::string& worker_id) {
  const auto session = impl_->hub->registry().FindById(worker_id);
  v1::MasterControl message;
  message.mutable_drain()->set_epoch(impl_->hub->cluster().epoch);
  if (session == nullptr || !session->SendControl(std::move(message))) {
    return absl::NotFoundError(absl::StrCat("worker '", worker_id, "' is not linked"));
  }
  LogInfo("link", "worker told to leave", {{"labels.worker", worker_id}});
  return absl::OkStatus();
}

absl::Status LinkServer::Load(const WorkerKey& worker, const LoadOrder& order, uint64_t epoch) {
  v1::MasterControl message;
  *message.mutable_load() = ToMessage(order, epoch);
  return impl_->Order(worker, std::move(message));
}

absl::Status LinkServer::Unload(const WorkerKey& worker, const std::string& model, uint64_t epoch) {
  v1::MasterControl message;
  message.mutable_unload()->set_epoch(epoch);
  message.mutable_unload()->set_model(model);
  return impl_->Order(worker, std::move(message));
}

void LinkServer::Condemn(const std::string& name, absl::Duration remaining) {
  if (const auto news = impl_->hub->condemned().Add(name, remaining)) impl_->hub->TellAll(*news);
}

void LinkServer::OnCondemned(
    std::function<void(const std::string& name, absl::Duration remaining)> callback) {
  impl_->hub->condemned().OnNews(std::move(callback));
}

void LinkServer::OnLastWords(std::function<void(const std::vector<LastRun>&)> callback) {
  impl_->hub->condemned().OnLastWords(std::move(callback));
}

void LinkServer::ReportBacklog(const std::string& model, int64_t cost) {
  impl_->hub->ReportBacklog(model, cost);
}

}  // namespace fathom::master
