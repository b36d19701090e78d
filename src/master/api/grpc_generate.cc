#include "master/api/grpc_generate.h"

#include <boost/asio/post.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "master/api/delta_buffer.h"
#include "master/api/grpc_convert.h"

namespace fathom::master {
namespace {

class GenerateCall final : public GenerationSink,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(const GenerateHost& host, GrpcLoop& loop, v1::GenerateResponse& scratch)
      : host_(host),
        loop_(loop),
        scratch_(scratch),
        executor_(loop.executor()),
        deltas_(host.client_backlog_bytes) {}

  // Waits for a client to call.
  void Await() {
    self_ = shared_from_this();
    rpc_->context.AsyncNotifyWhenDone(static_cast<GrpcTag*>(&over_));
    host_.service->RequestGenerate(&rpc_->context, &*message_in_, &rpc_->writer, loop_.queue(),
                                   loop_.queue(), static_cast<GrpcTag*>(&arrived_));
  }

  absl::Status OnDelta(GenerationDelta delta) override {
    if (cursor_->Knows(delta)) return absl::OkStatus();
    // The end comes in the same breath as the last delta, which is to carry the usage.
    const bool may_be_last = delta.finish != FinishReason::kNone;
    if (!may_be_last && !cancelled_ && deltas_.empty() && MayWrite()) {
      Write(std::move(delta), /*last=*/false);
      return absl::OkStatus();
    }
    absl::Status pushed = deltas_.Push(std::move(delta));
    SchedulePump();
    return pushed;
  }
  void OnEnd(const absl::Status& status, const GenerationUsage& usage) override {
    ended_ = true;
    status_ = status;
    usage_ = usage;
    generation_ = nullptr;
    SchedulePump();
  }

 private:
  struct Rpc {
    grpc::ServerContext context;
    grpc::ServerAsyncWriter<v1::GenerateResponse> writer{&context};
  };
  // The end of an operation, by its kind.
  class Tag final : public GrpcTag {
   public:
    Tag(GenerateCall* call, void (GenerateCall::*handle)(bool)) : call_(call), handle_(handle) {}
    void OnEvent(bool ok) override { (call_->*handle_)(ok); }

   private:
    GenerateCall* const call_;
    void (GenerateCall::*const handle_)(bool);
  };

  void HandleArrived(bool ok) {
    if (!ok) {  // the server goes
      self_ = nullptr;
      return;
    }
    operations_ = 2;
    ServeGenerate(host_, loop_, scratch_);
    entry_.emplace(*host_.calls);
    peer_ = rpc_->context.peer();
    absl::StatusOr<OpenedGenerate> opened = host_.open(rpc_->context, *message_in_, &principal_);
    message_in_.reset();
    if (!opened.ok()) {
      status_ = opened.status();
      ended_ = true;
    } else {
      Start(*std::move(opened));
    }
    Pump();
  }
  void HandleWritten(bool ok) {
    writing_ = false;
    if (!ok) HandleGone();
    Pump();
    OperationEnded();
  }
  void HandleFinished(bool /*ok*/) {
    entry_.reset();
    OperationEnded();
  }
  void HandleOver(bool /*ok*/) {
    if (rpc_->context.IsCancelled()) HandleGone();
    OperationEnded();
  }
  // gRPC knows the call, by pointers, until the last of them. The generation may know it longer.
  void OperationEnded() {
    if (--operations_ > 0) return;
    rpc_ = nullptr;
    self_ = nullptr;
  }

  void Start(OpenedGenerate opened) {
    id_ = opened.request.id;
    model_ = opened.request.model;
    cursor_.emplace(opened.resume, opened.request.n);
    usage_told_ = opened.resume.usage_told;
    started_ns_ = host_.serving->clock().MonotonicNs();
    // The generation may end before Generate returns.
    auto generation =
        host_.serving->Generate(std::move(opened.request), executor_, shared_from_this());
    if (!ended_) generation_ = std::move(generation);
  }
  void HandleGone() {
    cancelled_ = true;
    if (const auto generation = generation_) {
      generation->Leave(absl::CancelledError("the client went away"));
    }
  }

  void SchedulePump() {
    if (std::exchange(pump_scheduled_, true)) return;
    boost::asio::post(executor_, [self = shared_from_this()] {
      self->pump_scheduled_ = false;
      self->Pump();
    });
  }

  bool MayWrite() const { return !writing_ && !finished_; }

  void Pump() {
    if (!MayWrite() || loop_.ended()) return;
    if (!cancelled_) {
      auto delta = deltas_.Pop();
      const bool last = ended_ && status_.ok() && deltas_.empty();
      // A client that came back may have had all but the usage.
      if (delta || (last && !usage_told_)) {
        Write(std::move(delta), last);
        return;
      }
    }
    if (!ended_) return;
    finished_ = true;
    const int64_t took_ns =
        started_ns_ == 0 ? 0 : host_.serving->clock().MonotonicNs() - started_ns_;
    RecordGrpcCall("Generate", id_, principal_, status_, took_ns, usage_, peer_);
    AddFailureDetails(&rpc_->context, status_);
    rpc_->writer.Finish(ToGrpc(status_), static_cast<GrpcTag*>(&finish_));
  }

  void Write(std::optional<GenerationDelta> delta, bool last) {
    // gRPC copies it before Write returns. Cleared, a message keeps its memory: good for the next
    // piece, too much after a prompt's.
    v1::GenerateResponse& message = scratch_;
    if (message.prompt_logprobs_size() > 0) message = v1::GenerateResponse();
    message.Clear();
    message.set_id(id_);
    if (delta) {
      cursor_->Advance(*delta);
      Fill(*std::move(delta), *model_, message);
    }
    if (last) {
      *message.mutable_usage() = ToProto(usage_);
      usage_told_ = true;
    }
    cursor_->AppendToken(*message.mutable_resume_token(), last);
    writing_ = true;
    ++operations_;
    rpc_->writer.Write(message, static_cast<GrpcTag*>(&written_));
  }

  const GenerateHost& host_;
  GrpcLoop& loop_;
  v1::GenerateResponse& scratch_;
  const boost::asio::any_io_executor executor_;         // the loop's
  std::unique_ptr<Rpc> rpc_ = std::make_unique<Rpc>();  // until it is over
  Tag arrived_{this, &GenerateCall::HandleArrived};
  Tag written_{this, &GenerateCall::HandleWritten};
  Tag finish_{this, &GenerateCall::HandleFinished};
  Tag over_{this, &GenerateCall::HandleOver};
  // Whose tags are to come. From the arrival on two are, whatever happens: that it is over, and
  // that it is finished.
  int operations_ = 0;
  std::shared_ptr<GenerateCall> self_;  // meanwhile

  std::optional<v1::GenerateRequest> message_in_{std::in_place};  // until it is opened
  std::optional<GrpcCalls::Entry> entry_;
  Principal principal_;
  std::string peer_;
  std::string id_;
  ModelPtr model_;
  std::shared_ptr<Generation> generation_;
  std::optional<ResumeCursor> cursor_;  // once it is started
  DeltaBuffer deltas_;
  int64_t started_ns_ = 0;
  bool pump_scheduled_ = false;
  bool writing_ = false;
  bool finished_ = false;
  bool cancelled_ = false;
  bool ended_ = false;
  bool usage_told_ = false;
  absl::Status status_;
  GenerationUsage usage_;
};

}  // namespace

void ServeGenerate(const GenerateHost& host, GrpcLoop& loop, v1::GenerateResponse& scratch) {
  std::make_shared<GenerateCall>(host, loop, scratch)->Await();
}

}  // namespace fathom::master
