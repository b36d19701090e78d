#include "cli/load/grpc_transport.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "cli/load/requests.h"
#include "common/clock.h"
#include "fathom/v1/inference.grpc.pb.h"

namespace fathom::cli {
namespace {

constexpr int kConnections = 4;
constexpr std::chrono::seconds kFirstAnswer(5);

absl::Status ToAbslStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

void Authorize(grpc::ClientContext& context, const std::string& key) {
  if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
}

class GrpcTransport;

// One call, from its start to OnDone, where it ends itself.
class Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(GrpcTransport& owner, AnswerMeter meter, AnswerSink sink)
      : owner_(owner), meter_(std::move(meter)), sink_(std::move(sink)) {}

  void Start(v1::Inference::Stub& stub, const std::string& key, v1::GenerateRequest request) {
    request_ = std::move(request);
    Authorize(context_, key);
    stub.async()->Generate(&context_, &request_, this);
    meter_.OnSent(Clock::Real()->MonotonicNs());
    StartRead(&response_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.token_ids_size() > 0 || !response_.text_delta().empty()) {
      meter_.OnPiece(Clock::Real()->MonotonicNs(), response_.text_delta());
    }
    if (response_.has_usage()) {
      meter_.OnUsage(response_.usage().prompt_tokens(), response_.usage().completion_tokens());
    }
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override;

 private:
  GrpcTransport& owner_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  AnswerMeter meter_;
  const AnswerSink sink_;
};

class GrpcTransport final : public LoadTransport {
 public:
  GrpcTransport(std::vector<std::unique_ptr<v1::Inference::Stub>> stubs, std::string key,
                RequestOptions options)
      : stubs_(std::move(stubs)), key_(std::move(key)), options_(std::move(options)) {}

  ~GrpcTransport() override {
    CancelAll();
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return calls_.empty(); });
  }

  void Send(const LoadItem& item, int64_t scheduled_ns, AnswerSink sink) override {
    auto* call = new Call(*this, AnswerMeter(scheduled_ns, CheckFor(item, options_)),
                          std::move(sink));  // OnDone deletes it
    {
      const std::lock_guard lock(mutex_);
      calls_.insert(call);
    }
    call->Start(*stubs_[next_++ % stubs_.size()], key_, ToGrpc(item, options_));
  }

  void CancelAll() override {
    const std::lock_guard lock(mutex_);
    for (Call* call : calls_) call->Cancel();
  }

  void Forget(Call* call) {
    const std::lock_guard lock(mutex_);
    calls_.erase(call);
    idle_.notify_all();
  }

 private:
  const std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  const std::string key_;
  const RequestOptions options_;
  size_t next_ = 0;

  std::mutex mutex_;
  std::condition_variable idle_;
  std::unordered_set<Call*> calls_;  // protected by mutex_
};

void Call::OnDone(const grpc::Status& status) {
  sink_(meter_.Finish(ToAbslStatus(status), Clock::Real()->MonotonicNs()));
  owner_.Forget(this);
  delete this;
}

absl::Status Probe(v1::Inference::Stub& stub, const std::string& key) {
  grpc::ClientContext context;
  Authorize(context, key);
  context.set_deadline(std::chrono::system_clock::now() + kFirstAnswer);
  v1::ListModelsResponse response;
  return ToAbslStatus(stub.ListModels(&context, v1::ListModelsRequest(), &response));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadTransport>> MakeGrpcTransport(const std::string& address,
                                                                 const std::string& key,
                                                                 const RequestOptions& options) {
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs;
  for (int i = 0; i < kConnections; ++i) {
    grpc::ChannelArguments arguments;
    // Channels with equal arguments would share one connection.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stubs.push_back(v1::Inference::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments)));
  }
  if (absl::Status probed = Probe(*stubs.front(), key); !probed.ok()) return probed;
  return std::make_unique<GrpcTransport>(std::move(stubs), key, options);
}

}  // namespace fathom::cli
