#pragma once

// One stream of the link on the worker's side: hands over one message at a time and reads the next
// only when asked (so that a peer cannot flood the mailbox), writes from a bounded outbox, never
// blocks. It keeps itself alive until gRPC is done with it.
//
// Thread safety: every method may be called from any thread, also after the end. Handlers run on
// gRPC's threads and must only post; on_closed is the last of them.

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/outbox.h"

namespace fathom::worker {

template <typename Read, typename Write>
class ClientStream : public grpc::ClientBidiReactor<Write, Read>,
                     public std::enable_shared_from_this<ClientStream<Read, Write>> {
 public:
  struct Handlers {
    std::function<void(Read)> on_message;
    std::function<void(absl::Status)> on_closed;
  };
  // Begins the call on the stub.
  using Begin = std::function<void(grpc::ClientContext*, grpc::ClientBidiReactor<Write, Read>*)>;

  static std::shared_ptr<ClientStream> Start(const Begin& begin, size_t outbox_bytes,
                                             Handlers handlers) {
    auto stream =
        std::shared_ptr<ClientStream>(new ClientStream(outbox_bytes, std::move(handlers)));
    stream->self_ = stream;
    begin(&stream->context_, stream.get());
    stream->AddHold();  // until Close: writes start from outside gRPC's callbacks
    stream->StartRead(&stream->read_);
    stream->StartCall();
    return stream;
  }

  // False when the stream has ended or its outbox is full.
  bool Send(Write message) {
    const size_t bytes = message.ByteSizeLong();
    const std::lock_guard lock(mutex_);
    if (closed_ || finishing_ || !outbox_.Push(std::move(message), bytes)) return false;
    WriteNext();
    return true;
  }

  // The message handed over last has been dealt with.
  void ReadNext() {
    const std::lock_guard lock(mutex_);
    if (!closed_) this->StartRead(&read_);
  }

  // Ends the stream once everything sent has been written.
  void Finish() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(finishing_, true) || closed_) return;
    if (outbox_.empty()) this->StartWritesDone();
  }

  void Cancel() {
    context_.TryCancel();
    Close();
  }

 private:
  ClientStream(size_t outbox_bytes, Handlers handlers)
      : handlers_(std::move(handlers)), outbox_(outbox_bytes) {}

  // mutex_ is held. gRPC never runs a callback inside StartWrite.
  void WriteNext() {
    if (const Write* next = outbox_.Next()) this->StartWrite(next);
  }

  void Close() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return;
    this->RemoveHold();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Close();
    handlers_.on_message(std::exchange(read_, Read()));
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Close();
    const std::lock_guard lock(mutex_);
    outbox_.Written();
    if (closed_) return;
    WriteNext();
    if (finishing_ && outbox_.empty()) this->StartWritesDone();
  }

  // What the handlers hold may hold this stream, and then is to outlive `last`: whoever waits for
  // it to be let go of must be the one to end the stream, as its context may be what keeps the
  // channel, and a channel that ends on a thread of gRPC's waits for that very thread.
  void OnDone(const grpc::Status& status) override {
    const Handlers handlers = std::move(handlers_);
    const std::shared_ptr<ClientStream> last = std::move(self_);
    handlers.on_closed(
        absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message()));
  }

  grpc::ClientContext context_;
  Handlers handlers_;
  std::shared_ptr<ClientStream> self_;
  Read read_;  // gRPC writes it between StartRead and OnReadDone

  std::mutex mutex_;
  // State below is protected by mutex_.
  Outbox<Write> outbox_;
  bool finishing_ = false;
  bool closed_ = false;
};

}  // namespace fathom::worker
