#include "master/api/kserve_infer.h"

#include <boost/asio/post.hpp>
#include <memory>
#include <string>
#include <utility>

#include "master/api/kserve_reply.h"

namespace fathom::master {
namespace {

class InferCall;

class Reactor final : public grpc::ServerUnaryReactor {
 public:
  Reactor(std::shared_ptr<InferCall> call, GrpcCalls& calls)
      : call_(std::move(call)), entry_(calls) {}
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<InferCall> call_;
  const GrpcCalls::Entry entry_;
};

class InferCall final : public GenerationSink, public std::enable_shared_from_this<InferCall> {
 public:
  InferCall(const boost::asio::any_io_executor& strand, grpc::CallbackServerContext* context,
            Serving& serving, KserveRequest request, Principal principal,
            inference::ModelInferResponse* response)
      : strand_(strand),
        context_(context),
        serving_(serving),
        request_(std::move(request.generation)),
        info_{.model = request_.model->base,
              .version = request_.model->version,
              .id = std::move(request.id),
              .outputs = std::move(request.outputs)},
        id_(request_.id),
        principal_(std::move(principal)),
        peer_(context->peer()),
        response_(response) {}

  const boost::asio::any_io_executor& strand() const { return strand_; }

  // Before Start; the reactor lives until Finish was called on it.
  void Bind(Reactor* reactor) { reactor_ = reactor; }
  void Start() {
    started_ns_ = serving_.clock().MonotonicNs();
    // The generation may end before Generate returns.
    auto generation = serving_.Generate(std::move(request_), strand_, shared_from_this());
    if (reactor_ == nullptr) return;
    generation_ = std::move(generation);
    if (cancelled_) Cancel();
  }
  void Cancel() {
    cancelled_ = true;
    if (const auto generation = generation_) {
      generation->Cancel(absl::CancelledError("the client went away"));
    }
  }

  absl::Status OnDelta(GenerationDelta delta) override {
    Gather(std::move(delta), answer_);
    return absl::OkStatus();
  }
  void OnEnd(const absl::Status& status, const GenerationUsage& usage) override {
    generation_ = nullptr;
    RecordGrpcCall("ModelInfer", id_, principal_, status,
                   serving_.clock().MonotonicNs() - started_ns_, usage, peer_);
    AddFailureDetails(context_, status);
    if (status.ok()) {
      *response_ = KserveResponse(info_, answer_);
      AddUsage(usage, *response_);
    }
    std::exchange(reactor_, nullptr)->Finish(ToGrpc(status));
  }

 private:
  const boost::asio::any_io_executor strand_;
  grpc::CallbackServerContext* const context_;  // valid until Finish
  Serving& serving_;
  GenerationRequest request_;
  const KserveReplyInfo info_;
  const std::string id_;
  const Principal principal_;
  const std::string peer_;
  inference::ModelInferResponse* const response_;  // valid until Finish

  // State below is touched on the strand alone.
  Reactor* reactor_ = nullptr;  // null once it is finished
  std::shared_ptr<Generation> generation_;
  GenerationDelta answer_;
  int64_t started_ns_ = 0;
  bool cancelled_ = false;
};

void Reactor::OnCancel() {
  boost::asio::post(call_->strand(), [call = call_] { call->Cancel(); });
}

}  // namespace

grpc::ServerUnaryReactor* StartKserveInfer(const boost::asio::any_io_executor& strand,
                                           grpc::CallbackServerContext* context, Serving& serving,
                                           KserveRequest request, const Principal& principal,
                                           inference::ModelInferResponse* response,
                                           GrpcCalls& calls) {
  auto call = std::make_shared<InferCall>(strand, context, serving, std::move(request), principal,
                                          response);
  auto* reactor = new Reactor(call, calls);  // OnDone deletes it
  call->Bind(reactor);
  boost::asio::post(strand, [call] { call->Start(); });
  return reactor;
}

}  // namespace fathom::master
