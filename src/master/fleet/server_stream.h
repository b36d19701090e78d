#pragma once

// One stream of the link on the master's side: reads one message after the other, writes what is
// sent to it one at a time from a bounded outbox, never blocks. It keeps itself alive until gRPC is
// done with it.
//
// Thread safety: Send, End and Abort from any thread, also after the end. OnMessage calls come one
// at a time; OnClosed comes once, after the last of them has begun, and nothing follows it.

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "common/outbox.h"

namespace fathom::master {

inline grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

// What a session needs of a stream; tests put a recorder in its place.
template <typename Message>
class MessageSink {
 public:
  virtual ~MessageSink() = default;
  // False when the stream has ended or its outbox is full.
  virtual bool Send(Message message) = 0;
  // Ends it at once, without waiting for a peer that may not read.
  virtual void Abort() = 0;
};

template <typename Read, typename Write>
class ServerStream : public grpc::ServerBidiReactor<Read, Write>,
                     public MessageSink<Write>,
                     public std::enable_shared_from_this<ServerStream<Read, Write>> {
 public:
  struct Handlers {
    // A bad message ends the stream with the status returned.
    std::function<absl::Status(ServerStream&, Read&)> on_message;
    // The stream is over or about to be; its sends fail.
    std::function<void()> on_closed;
    // gRPC has let go of the stream: its last act.
    std::function<void()> on_done;
  };

  // Ownership is shared with gRPC until the stream is done.
  static ServerStream* Start(grpc::CallbackServerContext* context, size_t outbox_bytes,
                             Handlers handlers) {
    auto stream =
        std::shared_ptr<ServerStream>(new ServerStream(context, outbox_bytes, std::move(handlers)));
    stream->self_ = stream;
    stream->StartRead(&stream->read_);
    return stream.get();
  }

  bool Send(Write message) override {
    const size_t bytes = message.ByteSizeLong();
    const std::lock_guard lock(mutex_);
    if (finished_ || !outbox_.Push(std::move(message), bytes)) return false;
    WriteNext();
    return true;
  }

  // Tells the peer why. The peer's answer is awaited: only for peers that are heard of.
  void End(const absl::Status& status) {
    {
      const std::lock_guard lock(mutex_);
      if (finished_) return;
      finished_ = true;
      this->Finish(ToGrpc(status));
    }
    Close();
  }

  bool ended() {
    const std::lock_guard lock(mutex_);
    return finished_;
  }

  void Abort() override {
    {
      const std::lock_guard lock(mutex_);
      if (done_) return;
      context_->TryCancel();
      if (!finished_) {
        finished_ = true;
        this->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the link was cut"));
      }
    }
    Close();
  }

 private:
  ServerStream(grpc::CallbackServerContext* context, size_t outbox_bytes, Handlers handlers)
      : context_(context), handlers_(std::move(handlers)), outbox_(outbox_bytes) {}

  // mutex_ is held. gRPC never runs a callback inside StartWrite.
  void WriteNext() {
    if (const Write* next = outbox_.Next()) this->StartWrite(next);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    // It may have come before the peer heard that it is refused.
    if (ended()) return;
    const absl::Status status = handlers_.on_message(*this, read_);
    if (!status.ok()) return End(status);
    const std::lock_guard lock(mutex_);
    if (!finished_) this->StartRead(&read_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    const std::lock_guard lock(mutex_);
    outbox_.Written();
    if (!finished_) WriteNext();
  }

  void OnCancel() override { End(absl::CancelledError("cancelled")); }

  void OnDone() override {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    const std::shared_ptr<ServerStream> last = std::move(self_);
    handlers_.on_done();
  }

  void Close() {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(closed_, true)) return;
    }
    handlers_.on_closed();
  }

  grpc::CallbackServerContext* const context_;  // gone once done_
  const Handlers handlers_;
  std::shared_ptr<ServerStream> self_;
  Read read_;  // gRPC writes it between StartRead and OnReadDone

  std::mutex mutex_;
  // State below is protected by mutex_.
  Outbox<Write> outbox_;
  bool finished_ = false;
  bool closed_ = false;
  bool done_ = false;
};

}  // namespace fathom::master
