#include "master/api/kserve_stream.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/caller.h"
#include "master/api/delta_buffer.h"
#include "master/api/kserve_reply.h"
#include "master/api/kserve_request.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

constexpr size_t kRequestsMax = 64;
constexpr size_t kShownNameBytesMax = 128;

class StreamCall;

class Reactor final : public KserveStreamReactor {
 public:
  Reactor(std::shared_ptr<StreamCall> call, GrpcCalls& calls)
      : call_(std::move(call)), entry_(calls) {}
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<StreamCall> call_;
  const GrpcCalls::Entry entry_;
};

// A request of the stream and what of its answer waits for the client.
class StreamRequest final : public GenerationSink {
 public:
  StreamRequest(std::shared_ptr<StreamCall> call, size_t backlog_bytes)
      : deltas(backlog_bytes), call_(std::move(call)) {}
  absl::Status OnDelta(GenerationDelta delta) override;
  void OnEnd(const absl::Status& status, const GenerationUsage& usage) override;

  KserveReplyInfo info;
  std::string id;
  bool whole = false;  // one response for the whole answer
  bool empty_final = false;
  int64_t started_ns = 0;
  std::shared_ptr<Generation> generation;
  DeltaBuffer deltas;
  GenerationDelta answer;  // what was gathered, when it is answered whole
  bool queued = false;     // in the call's list of those that have something to say
  bool ended = false;
  absl::Status end;
  GenerationUsage usage;

 private:
  const std::shared_ptr<StreamCall> call_;
};
using RequestPtr = std::shared_ptr<StreamRequest>;

class StreamCall final : public std::enable_shared_from_this<StreamCall> {
 public:
  StreamCall(const boost::asio::any_io_executor& strand, grpc::CallbackServerContext* context,
             Serving& serving, const KserveGrpcOptions& options, Principal principal,
             KserveStreams& streams)
      : strand_(strand),
        context_(context),
        serving_(serving),
        options_(options),
        principal_(std::move(principal)),
        peer_(context->peer()),
        streams_(streams) {
    const auto& metadata = context->client_metadata();
    const auto found = metadata.find("triton_grpc_error");
    errors_end_stream_ = found != metadata.end() && found->second == "true";
  }
  ~StreamCall() { streams_.Remove(number_); }
  StreamCall(const StreamCall&) = delete;
  StreamCall& operator=(const StreamCall&) = delete;

  const boost::asio::any_io_executor& strand() const { return strand_; }

  // Before Start; the reactor lives until Finish was called on it.
  void Bind(Reactor* reactor) { reactor_ = reactor; }
  void Start() {
    number_ = streams_.Add([weak = weak_from_this()] {
      const std::shared_ptr<StreamCall> self = weak.lock();
      if (self != nullptr) boost::asio::post(self->strand_, [self] { self->Drain(); });
    });
    Read();
  }

  void HandleRead(bool ok) {
    reading_ = false;
    if (reactor_ == nullptr) return;
    if (!ok) {
      all_read_ = true;
      return Pump();
    }
    Begin(std::move(in_));
    Read();
    Pump();
  }
  void HandleWritten(bool ok) {
    writing_ = false;
    if (!ok) return Cancel();
    Pump();
  }
  void Cancel() { Stop(absl::CancelledError("the client went away")); }

  // ---- for the requests ----
  absl::Status Push(StreamRequest& request, GenerationDelta delta) {
    size_t waiting = 0;
    for (const RequestPtr& other : requests_) waiting += other->deltas.bytes();
    if (waiting > options_.client_backlog_bytes) {
      return absl::CancelledError("the client reads too slowly: too much output waits for it");
    }
    return request.deltas.Push(std::move(delta));
  }
  // It has something to say. Written later, not now: the end comes in the same breath as the last
  // delta, which is to carry it.
  void Queue(StreamRequest& request) {
    if (!std::exchange(request.queued, true)) {
      const auto found =
          std::find_if(requests_.begin(), requests_.end(),
                       [&](const RequestPtr& other) { return other.get() == &request; });
      if (found != requests_.end()) ready_.push_back(*found);
    }
    if (std::exchange(pump_scheduled_, true)) return;
    boost::asio::post(strand_, [self = shared_from_this()] {
      self->pump_scheduled_ = false;
      self->Pump();
    });
  }
  void Record(const StreamRequest& request) {
    RecordGrpcCall("ModelStreamInfer", request.id, principal_, request.end,
                   serving_.clock().MonotonicNs() - request.started_ns, request.usage, peer_);
  }

 private:
  void Read() {
    if (reading_ || all_read_ || stopped_ || requests_.size() >= kRequestsMax) return;
    reading_ = true;
    in_.Clear();
    reactor_->StartRead(&in_);
  }

  absl::StatusOr<GenerationRequest> Parse(inference::ModelInferRequest message,
                                          StreamRequest& request) {
    if (serving_.draining()) {
      return WithRetryAfter(absl::UnavailableError("the server is shutting down"),
                            absl::Seconds(1));
    }
    ASSIGN_OR_RETURN(KserveRequest parsed,
                     ReadKserveRequest(std::move(message), *serving_.catalog(),
                                       options_.timeout_max, {.id = request.id}));
    request.info.model = parsed.generation.model->base;
    request.info.version = parsed.generation.model->version;
    request.info.outputs = std::move(parsed.outputs);
    request.whole = !parsed.stream.value_or(true);
    request.empty_final = parsed.empty_final_response;
    GenerationRequest generation = std::move(parsed.generation);
    BelongTo(principal_, generation);
    generation.timeout = WithinDeadline(*context_, generation.timeout);
    return generation;
  }

  void Begin(inference::ModelInferRequest message) {
    auto request =
        std::make_shared<StreamRequest>(shared_from_this(), options_.client_backlog_bytes);
    request->id = serving_.NewId();
    request->started_ns = serving_.clock().MonotonicNs();
    request->info.model = message.model_name().substr(0, kShownNameBytesMax);
    request->info.id = message.id().substr(0, kShownNameBytesMax);
    requests_.push_back(request);
    absl::StatusOr<GenerationRequest> parsed = Parse(std::move(message), *request);
    if (!parsed.ok()) return request->OnEnd(parsed.status(), {});
    // The generation may end before Generate returns.
    auto generation = serving_.Generate(*std::move(parsed), strand_, request);
    if (!request->ended) request->generation = std::move(generation);
  }

  void Drain() {
    draining_ = true;
    Pump();
  }

  // Ends everything; what waits is not written any more.
  void Stop(const absl::Status& status) {
    if (std::exchange(stopped_, true)) return Pump();
    status_ = status;
    const std::vector<RequestPtr> requests = requests_;
    for (const RequestPtr& request : requests) {
      if (const auto generation = request->generation) {
        generation->Cancel(absl::CancelledError(status.message()));
      }
    }
    requests_.clear();
    ready_.clear();
    Pump();
  }

  void Pump() {
    if (writing_ || reactor_ == nullptr) return;
    if (!ready_.empty()) {
      const RequestPtr request = std::move(ready_.front());
      ready_.pop_front();
      request->queued = false;
      if (request->ended && !request->end.ok() && request->deltas.empty() && errors_end_stream_) {
        AddFailureDetails(context_, request->end);
        return Stop(request->end);
      }
      out_.Clear();
      if (WriteNext(*request)) {
        std::erase(requests_, request);
        Read();
      } else if (!request->deltas.empty() || request->ended) {
        Queue(*request);
      }
      writing_ = true;
      reactor_->StartWrite(&out_);
      return;
    }
    if (!stopped_ && !((all_read_ || draining_) && requests_.empty())) return;
    if (!stopped_ && !all_read_) status_ = absl::UnavailableError("the server is shutting down");
    std::exchange(reactor_, nullptr)->Finish(ToGrpc(status_));
  }

  // The request's next response into `out_`; true when it is the last.
  bool WriteNext(StreamRequest& request) {
    inference::ModelInferResponse& response = *out_.mutable_infer_response();
    std::optional<GenerationDelta> delta = request.deltas.Pop();
    if (!delta && request.ended && !request.end.ok()) {
      out_.set_error_message(std::string(Message(request.end)));
      if (out_.error_message().empty()) out_.set_error_message("the request failed");
      response = KserveEmptyResponse(request.info);
      SetFinal(true, response);
      return true;
    }
    if (!delta) {
      response = KserveEmptyResponse(request.info);
    } else {
      response = KserveResponse(request.info, *delta);
    }
    const bool last = request.ended && request.end.ok() && request.deltas.empty() &&
                      (!delta || !request.empty_final);
    if (last) AddUsage(request.usage, response);
    SetFinal(last, response);
    return last;
  }

  const boost::asio::any_io_executor strand_;
  grpc::CallbackServerContext* const context_;  // valid until Finish
  Serving& serving_;
  const KserveGrpcOptions options_;
  const Principal principal_;
  const std::string peer_;
  KserveStreams& streams_;
  bool errors_end_stream_ = false;  // constant after construction

  // State below is touched on the strand alone.
  uint64_t number_ = 0;                      // among the streams
  Reactor* reactor_ = nullptr;               // null once it is finished
  inference::ModelInferRequest in_;          // of the read in flight
  inference::ModelStreamInferResponse out_;  // of the write in flight
  std::vector<RequestPtr> requests_;         // that have not said their last
  std::deque<RequestPtr> ready_;             // that have something to say; each in its turn
  bool reading_ = false;
  bool writing_ = false;
  bool pump_scheduled_ = false;
  bool all_read_ = false;
  bool draining_ = false;
  bool stopped_ = false;
  absl::Status status_;
};

absl::Status StreamRequest::OnDelta(GenerationDelta delta) {
  if (whole) {
    Gather(std::move(delta), answer);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(call_->Push(*this, std::move(delta)));
  call_->Queue(*this);
  return absl::OkStatus();
}

void StreamRequest::OnEnd(const absl::Status& status, const GenerationUsage& end_usage) {
  generation = nullptr;
  ended = true;
  end = status;
  usage = end_usage;
  call_->Record(*this);
  if (whole && status.ok()) end = deltas.Push(std::move(answer));
  call_->Queue(*this);
}

void Reactor::OnReadDone(bool ok) {
  boost::asio::post(call_->strand(), [call = call_, ok] { call->HandleRead(ok); });
}

void Reactor::OnWriteDone(bool ok) {
  boost::asio::post(call_->strand(), [call = call_, ok] { call->HandleWritten(ok); });
}

void Reactor::OnCancel() {
  boost::asio::post(call_->strand(), [call = call_] { call->Cancel(); });
}

class Refusal final : public KserveStreamReactor {
 public:
  void OnDone() override { delete this; }
};

}  // namespace

void KserveStreams::Drain() {
  std::vector<std::function<void()>> drains;
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    for (const auto& [number, drain] : streams_) drains.push_back(drain);
  }
  // Not under the lock: one may hold the last reference to a stream, which then removes itself.
  for (const auto& drain : drains) drain();
}

uint64_t KserveStreams::Add(std::function<void()> drain) {
  bool draining = false;
  uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    draining = draining_;
    number = next_++;
    streams_.emplace(number, drain);
  }
  if (draining) drain();
  return number;
}

void KserveStreams::Remove(uint64_t stream) {
  const std::lock_guard lock(mutex_);
  streams_.erase(stream);
}

KserveStreamReactor* StartKserveStream(const boost::asio::any_io_executor& strand,
                                       grpc::CallbackServerContext* context, Serving& serving,
                                       const KserveGrpcOptions& options, const Principal& principal,
                                       KserveStreams& streams, GrpcCalls& calls) {
  auto call = std::make_shared<StreamCall>(strand, context, serving, options, principal, streams);
  auto* reactor = new Reactor(call, calls);  // OnDone deletes it
  call->Bind(reactor);
  boost::asio::post(strand, [call] { call->Start(); });
  return reactor;
}

KserveStreamReactor* RefuseKserveStream(grpc::CallbackServerContext* context,
                                        const absl::Status& status) {
  auto* reactor = new Refusal;  // OnDone deletes it
  AddFailureDetails(context, status);
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace fathom::master
