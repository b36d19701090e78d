#pragma once

// A thread that serves calls of gRPC's asynchronous API and runs what is posted to it. One thread
// for both, since gRPC's callbacks come on threads of its own: each message of a stream would wake
// one of those, to hear that it was written, and that costs more than the message.
//
// Thread safety: the executor may be used on any thread, also when the loop is gone: what is posted
// then is dropped. Tags are called on the loop's thread, one at a time with what is posted.

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/execution_context.hpp>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "common/stack_thread.h"

namespace fathom::master {

// What an operation of the loop's queue calls when it has ended.
class GrpcTag {
 public:
  virtual void OnEvent(bool ok) = 0;

 protected:
  ~GrpcTag() = default;
};

class GrpcLoop {
 public:
  // `timers`, which outlives what is posted, is where timers of the executor run; what they call is
  // posted. The queue belongs to a server that is not built yet.
  GrpcLoop(std::unique_ptr<grpc::ServerCompletionQueue> queue,
           boost::asio::execution_context& timers);
  ~GrpcLoop();  // stops
  GrpcLoop(const GrpcLoop&) = delete;
  GrpcLoop& operator=(const GrpcLoop&) = delete;

  // Once, when the server is built.
  void Start(size_t stack_bytes);
  // When the server is shut down, or was never built. What its queue still holds is called.
  void Stop();

  grpc::ServerCompletionQueue* queue() { return queue_.get(); }
  // The queue takes no operation any more. By tags.
  bool ended() const { return ended_; }
  boost::asio::any_io_executor executor() const;

 private:
  using Task = absl::AnyInvocable<void()>;

  // What the executor posts into; outlives the loop with the last that holds it.
  class Inbox final : public GrpcTag {
   public:
    Inbox(grpc::CompletionQueue* queue, boost::asio::execution_context& timers)
        : queue_(queue), timers_(timers) {}
    void Post(Task task);
    // What was posted. Nothing, and the next Post wakes the queue; or nullopt: it is closed, and
    // nobody is about to wake it.
    std::optional<std::vector<Task>> Take();
    // The queue gave an event: it needs no waking.
    void Awake();
    void Close();
    void OnEvent(bool ok) override;
    boost::asio::execution_context& timers() const { return timers_; }

   private:
    grpc::CompletionQueue* const queue_;
    boost::asio::execution_context& timers_;
    grpc::Alarm alarm_;
    std::mutex mutex_;
    // State below is protected by mutex_.
    std::vector<Task> tasks_;
    bool waits_ = false;   // the loop, for an event
    bool waking_ = false;  // alarm_ is set, and its event has not come
    bool closed_ = false;
  };
  class Executor;

  void Run();
  // Calls what has ended or ends by then; false when nothing has.
  bool CallNext(gpr_timespec deadline);

  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  const std::shared_ptr<Inbox> inbox_;
  std::optional<StackThread> thread_;
  bool waits_ = false;  // the thread's own
  bool stopped_ = false;
  bool ended_ = false;  // changes when the thread is gone
};

}  // namespace fathom::master
