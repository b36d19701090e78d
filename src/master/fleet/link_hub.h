#pragma once

// What the link's streams share on the master's side: who is linked, who has come and not yet said
// who it is, and the ticker that judges silence and sends heartbeats. A part of LinkServer.
//
// Thread safety: every method may be called from any thread; StartTicking, Stop and WaitForStreams
// once each, by the owner.

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/repeated_news.h"
#include "fathom/v1/link.grpc.pb.h"
#include "master/fleet/claim_round.h"
#include "master/fleet/condemned_news.h"
#include "master/fleet/link_server.h"
#include "master/fleet/registry.h"
#include "master/fleet/server_stream.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {

using ControlStream = ServerStream<v1::WorkerControl, v1::MasterControl>;
using DataStream = ServerStream<v1::WorkerData, v1::MasterData>;
using BulkStream = ServerStream<v1::WorkerBulk, v1::MasterBulk>;

inline WorkerLoss LinkBroke() {
  return {LossKind::kBroken, absl::UnavailableError("the link to the worker broke")};
}

// Everything the streams and the ticker share. Streams hold it, so that it outlives the last one.
class LinkHub : public std::enable_shared_from_this<LinkHub> {
 public:
  explicit LinkHub(LinkServerOptions options)
      : options_(std::move(options)),
        incarnation_(RandomHex(*options_.random, 16)),
        registry_(options_.clock),
        condemned_(options_.clock),
        refusals_(options_.clock) {}

  const LinkServerOptions& options() const { return options_; }
  Registry& registry() { return registry_; }
  CondemnedNews& condemned() { return condemned_; }
  // Every worker but that one.
  void TellAll(const v1::MasterControl& message, const WorkerSession* except = nullptr);
  void ReportBacklog(const std::string& model, int64_t cost);
  ClusterNews cluster() const { return options_.cluster ? options_.cluster() : ClusterNews{}; }

  grpc::ServerBidiReactor<v1::WorkerControl, v1::MasterControl>* OpenControl(
      grpc::CallbackServerContext* context);
  grpc::ServerBidiReactor<v1::WorkerData, v1::MasterData>* OpenData(
      grpc::CallbackServerContext* context);
  grpc::ServerBidiReactor<v1::WorkerBulk, v1::MasterBulk>* OpenBulk(
      grpc::CallbackServerContext* context);

  void Claim(const ClaimRequest& request, std::shared_ptr<SubmissionListener> listener,
             std::function<void(ClaimOutcome)> done);

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
  static constexpr size_t kStreamsMax = 3 * 4096;

  // A stream before it has greeted.
  struct Guest {
    int64_t since_ns = 0;
    std::weak_ptr<void> alive;  // expires once the stream is done or has greeted
    std::function<void()> cut;
  };

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
      LogRefused(context.peer(), caller);
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

  void LogRefused(const std::string& peer, const absl::Status& why);
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
  CondemnedNews condemned_;
  RepeatedNews refusals_;                  // by address
  uint64_t beats_ = 0;                     // the ticker's own
  Backlog told_backlog_;                   // likewise
  std::vector<std::string> told_masters_;  // likewise
  std::thread ticker_;

  std::mutex mutex_;
  std::condition_variable wake_;
  // State below is protected by mutex_.
  bool stopping_ = false;
  size_t open_streams_ = 0;
  std::vector<Guest> guests_;
  std::vector<std::weak_ptr<ClaimRound>> rounds_;  // claims that wait for answers
  Backlog backlog_;
};

}  // namespace fathom::master
