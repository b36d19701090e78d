#include "master/fleet/link_server.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "fathom/v1/link.grpc.pb.h"
#include "master/fleet/link_messages.h"
#include "master/fleet/registry.h"
#include "master/fleet/server_stream.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {
namespace {

using ControlStream = ServerStream<v1::WorkerControl, v1::MasterControl>;
using DataStream = ServerStream<v1::WorkerData, v1::MasterData>;
using BulkStream = ServerStream<v1::WorkerBulk, v1::MasterBulk>;

constexpr int kMessageBytesMax = 64 << 20;
constexpr size_t kControlOutboxBytes = size_t{4} << 20;
constexpr size_t kBulkOutboxBytes = size_t{1} << 20;
constexpr std::chrono::milliseconds kTick(50);
constexpr int64_t kOversleptNs = 500'000'000;
// A stream that has not said who it is by then is cut.
constexpr int64_t kGreetingNs = 5'000'000'000;
constexpr size_t kStreamsMax = 3 * 4096;

std::string HostPort(const std::string& host, int port) {
  const bool bare_v6 = host.find(':') != std::string::npos && !host.starts_with('[');
  return bare_v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

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

WorkerLoss LinkBroke() {
  return {LossKind::kBroken, absl::UnavailableError("the link to the worker broke")};
}

// A stream before it has greeted.
struct Guest {
  int64_t since_ns = 0;
  std::weak_ptr<void> alive;  // expires once the stream is done or has greeted
  std::function<void()> cut;
};

}  // namespace

// Everything the streams and the ticker share. Streams hold it, so that it outlives the last one.
class Hub : public std::enable_shared_from_this<Hub> {
 public:
  explicit Hub(LinkServerOptions options)
      : options_(std::move(options)),
        incarnation_(RandomHex(*options_.random, 16)),
        registry_(options_.clock) {}

  const LinkServerOptions& options() const { return options_; }
  Registry& registry() { return registry_; }
  void ReportBacklog(int64_t cost) { backlog_ = std::max<int64_t>(0, cost); }

  grpc::ServerBidiReactor<v1::WorkerControl, v1::MasterControl>* OpenControl(
      grpc::CallbackServerContext* context);
  grpc::ServerBidiReactor<v1::WorkerData, v1::MasterData>* OpenData(
      grpc::CallbackServerContext* context);
  grpc::ServerBidiReactor<v1::WorkerBulk, v1::MasterBulk>* OpenBulk(
      grpc::CallbackServerContext* context);

  void StartTicking() {
    ticker_ = std::thread([this] { Run(); });
  }

  // No new session; every one there is ends.
  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(stopping_, true)) return;
    }
    wake_.notify_all();
    ticker_.join();
    for (const auto& session : registry_.All()) {
      Kill(*session, {LossKind::kLeft, absl::UnavailableError("the master stops")});
    }
  }

  void WaitForStreams() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return open_streams_ == 0; });
  }

 private:
  // What the three kinds of stream have in common until they belong to a session.
  struct Binding {
    std::mutex mutex;
    std::shared_ptr<WorkerSession> session;
    std::shared_ptr<void> greeting = std::make_shared<int>(0);

    std::shared_ptr<WorkerSession> get() {
      const std::lock_guard lock(mutex);
      return session;
    }
    void set(std::shared_ptr<WorkerSession> bound) {
      const std::lock_guard lock(mutex);
      session = std::move(bound);
      greeting.reset();
    }
  };

  int64_t NowNs() const { return options_.clock->MonotonicNs(); }

  template <typename Stream, typename OnMessage>
  Stream* Open(grpc::CallbackServerContext* context, size_t outbox_bytes, OnMessage on_message) {
    auto binding = std::make_shared<Binding>();
    auto self = shared_from_this();
    {
      const std::lock_guard lock(mutex_);
      ++open_streams_;
    }
    Stream* stream = Stream::Start(context, outbox_bytes,
                                   {.on_message =
                                        [self, binding, on_message](auto& stream, auto& message) {
                                          return on_message(*self, *binding, stream, message);
                                        },
                                    .on_closed =
                                        [self, binding] {
                                          if (const auto session = binding->get()) {
                                            self->Kill(*session, LinkBroke());
                                          }
                                        },
                                    .on_done =
                                        [self, binding] {
                                          binding->set(nullptr);
                                          self->StreamDone();
                                        }});
    Admit(stream, *context, binding->greeting);
    return stream;
  }

  // A master's certificate is of the same CA and must not make its holder a worker.
  absl::Status CheckCaller(const grpc::CallbackServerContext& context) const {
    if (options_.tls.empty()) return absl::OkStatus();
    return CheckPeer(*context.auth_context(), kWorkerTlsName);
  }

  template <typename Stream>
  void Admit(Stream* stream, const grpc::CallbackServerContext& context,
             std::weak_ptr<void> alive) {
    if (const absl::Status caller = CheckCaller(context); !caller.ok()) {
      LogWarn("link", "caller refused",
              {{"source.address", std::string(context.peer())},
               {"error.message", std::string(caller.message())}});
      return stream->End(caller);
    }
    const std::weak_ptr<Stream> weak = std::static_pointer_cast<Stream>(stream->shared_from_this());
    std::unique_lock lock(mutex_);
    if (stopping_ || open_streams_ > kStreamsMax) {
      lock.unlock();
      return stream->End(absl::UnavailableError("this master takes no more workers"));
    }
    guests_.push_back({NowNs(), std::move(alive), [weak] {
                         if (const auto stream = weak.lock()) stream->Abort();
                       }});
  }

  void StreamDone() {
    {
      const std::lock_guard lock(mutex_);
      --open_streams_;
    }
    wake_.notify_all();
  }

  absl::Status Greet(Binding& binding, ControlStream& stream, const v1::Hello& hello);
  absl::Status CheckModels(const v1::Hello& hello) const;
  absl::Status OnControl(Binding& binding, ControlStream& stream, const v1::WorkerControl& message);
  absl::Status OnData(Binding& binding, DataStream& stream, const v1::WorkerData& message);
  absl::Status OnBulk(Binding& binding, BulkStream& stream, const v1::WorkerBulk& message);
  void Kill(WorkerSession& session, const WorkerLoss& loss);

  void Run();
  void Tick(int64_t now_ns, int64_t slept_ns, bool beat);

  const LinkServerOptions options_;
  const std::string incarnation_;  // hex
  Registry registry_;
  std::atomic<int64_t> backlog_{0};
  std::atomic<uint64_t> beats_{0};
  std::thread ticker_;

  std::mutex mutex_;
  std::condition_variable wake_;
  // State below is protected by mutex_.
  bool stopping_ = false;
  size_t open_streams_ = 0;
  std::vector<Guest> guests_;
};

grpc::ServerBidiReactor<v1::WorkerControl, v1::MasterControl>* Hub::OpenControl(
    grpc::CallbackServerContext* context) {
  return Open<ControlStream>(
      context, kControlOutboxBytes,
      [](Hub& hub, Binding& binding, ControlStream& stream, const v1::WorkerControl& message) {
        return hub.OnControl(binding, stream, message);
      });
}

grpc::ServerBidiReactor<v1::WorkerData, v1::MasterData>* Hub::OpenData(
    grpc::CallbackServerContext* context) {
  return Open<DataStream>(
      context, options_.outbox_bytes,
      [](Hub& hub, Binding& binding, DataStream& stream, const v1::WorkerData& message) {
        return hub.OnData(binding, stream, message);
      });
}

grpc::ServerBidiReactor<v1::WorkerBulk, v1::MasterBulk>* Hub::OpenBulk(
    grpc::CallbackServerContext* context) {
  return Open<BulkStream>(
      context, kBulkOutboxBytes,
      [](Hub& hub, Binding& binding, BulkStream& stream, const v1::WorkerBulk& message) {
        return hub.OnBulk(binding, stream, message);
      });
}

absl::Status Hub::CheckModels(const v1::Hello& hello) const {
  if (!options_.expected_model) return absl::OkStatus();
  const ExpectedModel& expected = *options_.expected_model;
  for (const v1::LoadedModel& model : hello.models()) {
    if (model.name() != expected.name) continue;
    if (model.config_digest() == expected.config_digest &&
        model.tokenizer_digest() == expected.tokenizer_digest) {
      continue;
    }
    const bool config = model.config_digest() != expected.config_digest;
    return absl::FailedPreconditionError(absl::StrCat(
        "model '", model.name(), "' of worker '", hello.worker_id(), "' is not this master's: its ",
        config ? "config.json" : "tokenizer.json", " has SHA-256 ",
        config ? model.config_digest() : model.tokenizer_digest(), ", the master's has ",
        config ? expected.config_digest : expected.tokenizer_digest));
  }
  return absl::OkStatus();
}

absl::Status Hub::Greet(Binding& binding, ControlStream& stream, const v1::Hello& hello) {
  RETURN_IF_ERROR(CheckHello(hello));
  RETURN_IF_ERROR(CheckModels(hello));
  auto session = std::make_shared<WorkerSession>(
      hello, RandomHex(*options_.random, 16), options_.heartbeat, options_.silence_floor, NowNs(),
      std::static_pointer_cast<ControlStream>(stream.shared_from_this()), [hub = weak_from_this()] {
        if (const auto self = hub.lock()) self->registry_.Changed(true);
      });
  RETURN_IF_ERROR(registry_.Add(session));
  binding.set(session);
  LogInfo("link", "worker linked",
          {{"labels.worker", session->key().id},
           {"labels.incarnation", session->key().incarnation},
           {"labels.build", hello.build()}});

  v1::MasterControl answer;
  v1::Welcome* welcome = answer.mutable_welcome();
  welcome->set_master_id(options_.master_id);
  welcome->set_session_id(session->session_id());
  welcome->set_heartbeat_ms(static_cast<int32_t>(absl::ToInt64Milliseconds(options_.heartbeat)));
  welcome->mutable_masters()->Add(options_.masters.begin(), options_.masters.end());
  welcome->set_incarnation(absl::HexStringToBytes(incarnation_));
  if (!stream.Send(std::move(answer))) {
    absl::Status gone = absl::UnavailableError("the worker left while it was greeted");
    Kill(*session, {LossKind::kBroken, gone});
    return gone;
  }
  registry_.Changed(true);
  return absl::OkStatus();
}

absl::Status Hub::OnControl(Binding& binding, ControlStream& stream,
                            const v1::WorkerControl& message) {
  const auto session = binding.get();
  if (session == nullptr) {
    if (!message.has_hello()) return absl::InvalidArgumentError("the first message is Hello");
    absl::Status status = Greet(binding, stream, message.hello());
    if (!status.ok()) {
      LogWarn("link", "worker refused",
              {{"labels.worker", message.hello().worker_id().substr(0, 256)},
               {"error.message", std::string(status.message())}});
    }
    return status;
  }
  if (message.has_hello()) return absl::InvalidArgumentError("Hello comes once");
  if (message.has_heartbeat()) {
    session->OnHeartbeat(message.heartbeat(), NowNs());
    // Its streams are about to break, which would tell less.
    if (message.heartbeat().state() == v1::ENGINE_STATE_DEAD) {
      if (const auto loss = session->Judge(NowNs(), 0)) Kill(*session, *loss);
    }
  }
  if (message.has_leaving()) session->OnLeaving(message.leaving().reason());
  // Others are of a newer protocol and may be passed over.
  return absl::OkStatus();
}

absl::Status Hub::OnData(Binding& binding, DataStream& stream, const v1::WorkerData& message) {
  auto session = binding.get();
  if (session == nullptr) {
    session = registry_.FindBySession(message.session_id());
    if (session == nullptr) return absl::UnauthenticatedError("no such session");
    if (!session->BindData(std::static_pointer_cast<DataStream>(stream.shared_from_this()))) {
      return absl::AlreadyExistsError("the session has its data stream");
    }
    binding.set(session);
    if (stream.ended()) Kill(*session, LinkBroke());
  }
  return session->OnData(message, NowNs());
}

absl::Status Hub::OnBulk(Binding& binding, BulkStream& stream, const v1::WorkerBulk& message) {
  auto session = binding.get();
  if (session == nullptr) {
    session = registry_.FindBySession(message.session_id());
    if (session == nullptr) return absl::UnauthenticatedError("no such session");
    if (!session->BindBulk(std::static_pointer_cast<BulkStream>(stream.shared_from_this()))) {
      return absl::AlreadyExistsError("the session has its bulk stream");
    }
    binding.set(session);
    if (stream.ended()) Kill(*session, LinkBroke());
  }
  ASSIGN_OR_RETURN(const std::optional<CacheUpdate> update, session->OnBulk(message));
  if (update) registry_.CacheChanged(session->key(), *update);
  return absl::OkStatus();
}

void Hub::Kill(WorkerSession& session, const WorkerLoss& loss) {
  const WorkerInfo last = session.Info();
  const bool draining = last.state == WorkerState::kDraining;
  // A worker that has said that it leaves ends its streams when it is done.
  const bool ended = draining && loss.kind == LossKind::kBroken;
  if (!session.Die(ended ? WorkerLoss{LossKind::kLeft, loss.reason} : loss)) return;
  registry_.Remove(session);
  const bool left = draining && last.in_flight == 0;
  Log(left ? LogLevel::kInfo : LogLevel::kWarn, "link", left ? "worker left" : "worker lost",
      {{"labels.worker", last.key.id},
       {"labels.in_flight", int64_t{last.in_flight}},
       {"error.message", std::string(loss.reason.message())}});
  registry_.Changed(true);
}

void Hub::Run() {
  int64_t last_ns = NowNs();
  int64_t last_beat_ns = last_ns - absl::ToInt64Nanoseconds(options_.heartbeat);
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kTick, [this] { return stopping_; })) {
    lock.unlock();
    const int64_t now_ns = NowNs();
    const int64_t slept_ns = now_ns - last_ns > kOversleptNs ? now_ns - last_ns : 0;
    const bool beat = now_ns - last_beat_ns >= absl::ToInt64Nanoseconds(options_.heartbeat);
    if (beat) last_beat_ns = now_ns;
    last_ns = now_ns;
    Tick(now_ns, slept_ns, beat);
    lock.lock();
  }
}

void Hub::Tick(int64_t now_ns, int64_t slept_ns, bool beat) {
  v1::MasterControl message;
  if (beat) {
    message.mutable_heartbeat()->set_sequence(++beats_);
    message.mutable_heartbeat()->set_backlog_cost(backlog_);
  }
  for (const auto& session : registry_.All()) {
    std::optional<WorkerLoss> verdict = session->Judge(now_ns, slept_ns);
    if (!verdict && beat && !session->SendControl(message)) {
      verdict = {LossKind::kSilent,
                 absl::UnavailableError("the control outbox to the worker is full")};
    }
    if (verdict) Kill(*session, *verdict);
  }

  std::vector<Guest> late;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(guests_, [&](Guest& guest) {
      if (guest.alive.expired()) return true;
      if (now_ns - guest.since_ns < kGreetingNs) return false;
      late.push_back(std::move(guest));
      return true;
    });
  }
  for (const Guest& guest : late) guest.cut();
}

namespace {

class Service final : public v1::Link::CallbackService {
 public:
  explicit Service(std::shared_ptr<Hub> hub) : hub_(std::move(hub)) {}

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
  const std::shared_ptr<Hub> hub_;
};

}  // namespace

struct LinkServer::Impl {
  std::shared_ptr<Hub> hub;
  std::unique_ptr<Service> service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::once_flag stopped;
};

LinkServer::LinkServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LinkServer::~LinkServer() { Stop(); }

absl::StatusOr<std::unique_ptr<LinkServer>> LinkServer::Start(LinkServerOptions options) {
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ServerCredentials> credentials,
                   MakeCredentials(options));
  const std::string address = HostPort(options.bind, options.port);
  auto impl = std::make_unique<Impl>();
  impl->hub = std::make_shared<Hub>(std::move(options));
  impl->service = std::make_unique<Service>(impl->hub);

  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, credentials, &impl->port);
  builder.RegisterService(impl->service.get());
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot take workers on ", address));
  }
  impl->hub->StartTicking();
  return std::unique_ptr<LinkServer>(new LinkServer(std::move(impl)));
}

int LinkServer::port() const { return impl_->port; }

void LinkServer::Stop() {
  std::call_once(impl_->stopped, [this] {
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

void LinkServer::OnChange(std::function<void()> callback) {
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
  absl::Status status = session->Submit(std::move(submission), std::move(listener));
  if (status.ok()) impl_->hub->registry().Changed(false);
  return status;
}

void LinkServer::Cancel(const WorkerKey& worker, const std::string& request_id, uint32_t attempt,
                        std::vector<int32_t> choices) {
  const auto session = impl_->hub->registry().Find(worker);
  if (session != nullptr) session->Cancel(request_id, attempt, std::move(choices));
}

absl::Status LinkServer::Drain(const std::string& worker_id) {
  const auto session = impl_->hub->registry().FindById(worker_id);
  v1::MasterControl message;
  message.mutable_drain();
  if (session == nullptr || !session->SendControl(std::move(message))) {
    return absl::NotFoundError(absl::StrCat("worker '", worker_id, "' is not linked"));
  }
  LogInfo("link", "worker told to leave", {{"labels.worker", worker_id}});
  return absl::OkStatus();
}

void LinkServer::ReportBacklog(int64_t cost) { impl_->hub->ReportBacklog(cost); }

}  // namespace fathom::master
