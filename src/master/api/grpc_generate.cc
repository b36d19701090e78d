#include "master/api/grpc_generate.h"

#include <atomic>
#include <boost/asio/post.hpp>
#include <optional>
#include <utility>

#include "master/api/grpc_convert.h"

namespace fathom::master {
namespace {

class GenerateCall;

class Reactor final : public GenerateReactor {
 public:
  Reactor(std::shared_ptr<GenerateCall> call, GrpcCalls& calls)
      : call_(std::move(call)), entry_(calls) {}
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<GenerateCall> call_;
  const GrpcCalls::Entry entry_;
};

class GenerateCall final : public GenerationSink,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(boost::asio::any_io_executor strand, grpc::CallbackServerContext* context,
               Serving& serving, GenerationRequest request, const ResumePlan& resume,
               Principal principal, size_t client_backlog_bytes)
      : strand_(std::move(strand)),
        context_(context),
        serving_(serving),
        request_(std::move(request)),
        principal_(std::move(principal)),
        peer_(context->peer()),
        id_(request_.id),
        model_(request_.model),
        cursor_(resume, request_.n),
        deltas_(client_backlog_bytes),
        usage_told_(resume.usage_told) {}

  // Before Start; the reactor lives until Finish was called on it.
  void Bind(Reactor* reactor) { reactor_ = reactor; }
  void Start() {
    started_ns_ = serving_.clock().MonotonicNs();
    // The generation may end before Generate returns.
    auto generation = serving_.Generate(std::move(request_), strand_, shared_from_this());
    if (!ended_) generation_ = std::move(generation);
    if (cancelled_ && generation_ != nullptr) HandleGone();
  }

  const boost::asio::any_io_executor& strand() const { return strand_; }

  absl::Status OnDelta(GenerationDelta delta) override {
    if (cursor_.Knows(delta)) return absl::OkStatus();
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

  // On a thread of gRPC's. Most writes end before there is anything more to write: then the strand
  // need not hear of it.
  void OnWritten(bool ok) {
    auto writing = Writing::kAlone;
    if (ok && write_.compare_exchange_strong(writing, Writing::kNone, std::memory_order_acq_rel)) {
      return;
    }
    boost::asio::post(strand_, [self = shared_from_this(), ok] {
      self->write_.store(Writing::kNone, std::memory_order_relaxed);
      if (!ok) self->HandleGone();
      self->Pump();
    });
  }
  void HandleGone() {
    cancelled_ = true;
    if (const auto generation = generation_) {
      generation->Leave(absl::CancelledError("the client went away"));
    }
  }

 private:
  void SchedulePump() {
    if (std::exchange(pump_scheduled_, true)) return;
    boost::asio::post(strand_, [self = shared_from_this()] {
      self->pump_scheduled_ = false;
      self->Pump();
    });
  }

  // False while a message is being written, whose end will then pump again; and when all is over.
  bool MayWrite() {
    if (reactor_ == nullptr) return false;
    auto writing = Writing::kAlone;
    if (write_.compare_exchange_strong(writing, Writing::kAwaited, std::memory_order_acq_rel)) {
      return false;
    }
    return writing == Writing::kNone;
  }

  void Pump() {
    if (!MayWrite()) return;
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
    RecordGrpcCall("Generate", id_, principal_, status_,
                   serving_.clock().MonotonicNs() - started_ns_, usage_, peer_);
    AddFailureDetails(context_, status_);
    std::exchange(reactor_, nullptr)->Finish(ToGrpc(status_));
  }

  void Write(std::optional<GenerationDelta> delta, bool last) {
    // Cleared, a message keeps its memory: good for the next piece, too much after a prompt's.
    if (message_.prompt_logprobs_size() > 0) message_ = v1::GenerateResponse();
    message_.Clear();
    message_.set_id(id_);
    if (delta) {
      cursor_.Advance(*delta);
      Fill(*std::move(delta), *model_, message_);
    }
    if (last) {
      *message_.mutable_usage() = ToProto(usage_);
      usage_told_ = true;
    }
    cursor_.AppendToken(*message_.mutable_resume_token(), last);
    const bool more = ended_ || !deltas_.empty();
    write_.store(more ? Writing::kAwaited : Writing::kAlone, std::memory_order_relaxed);
    reactor_->StartWrite(&message_);
  }

  const boost::asio::any_io_executor strand_;
  grpc::CallbackServerContext* const context_;  // valid until Finish
  Serving& serving_;
  GenerationRequest request_;
  const Principal principal_;
  const std::string peer_;
  const std::string id_;
  const ModelPtr model_;

  // A message in flight, whose end the strand awaits or not. Leaves kAlone on any thread, else only
  // the strand changes it.
  enum class Writing { kNone, kAlone, kAwaited };
  std::atomic<Writing> write_ = Writing::kNone;

  // State below is touched on the strand alone.
  Reactor* reactor_ = nullptr;
  std::shared_ptr<Generation> generation_;
  ResumeCursor cursor_;
  DeltaBuffer deltas_;
  v1::GenerateResponse message_;  // of the write in flight
  int64_t started_ns_ = 0;
  bool pump_scheduled_ = false;
  bool cancelled_ = false;
  bool ended_ = false;
  bool usage_told_;
  absl::Status status_;
  GenerationUsage usage_;
};

void Reactor::OnWriteDone(bool ok) { call_->OnWritten(ok); }

void Reactor::OnCancel() {
  boost::asio::post(call_->strand(), [call = call_] { call->HandleGone(); });
}

class Refusal final : public GenerateReactor {
 public:
  void OnDone() override { delete this; }
};

}  // namespace

GenerateReactor* StartGrpcGenerate(boost::asio::any_io_executor strand,
                                   grpc::CallbackServerContext* context, Serving& serving,
                                   GenerationRequest request, const ResumePlan& resume,
                                   const Principal& principal, size_t client_backlog_bytes,
                                   GrpcCalls& calls) {
  auto call =
      std::make_shared<GenerateCall>(std::move(strand), context, serving, std::move(request),
                                     resume, principal, client_backlog_bytes);
  auto* reactor = new Reactor(call, calls);  // OnDone deletes it
  call->Bind(reactor);
  boost::asio::post(call->strand(), [call] { call->Start(); });
  return reactor;
}

GenerateReactor* RefuseGrpcGenerate(grpc::CallbackServerContext* context,
                                    const absl::Status& status) {
  auto* reactor = new Refusal;  // OnDone deletes it
  AddFailureDetails(context, status);
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace fathom::master
