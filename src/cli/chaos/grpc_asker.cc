// Our own client over gRPC: it resumes behind the last message it has had, at whichever master
// answers.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/chaos/asker.h"
#include "fathom/v1/inference.grpc.pb.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kSilenceMax = absl::Seconds(20);
constexpr int32_t kHeldForSeconds = 30;
constexpr int kReconnectFirstMs = 50;
constexpr int kReconnectMaxMs = 300;
// What gRPC calls the least pause between attempts is also how long one may take: too short, and
// clients of a busy master do nothing but connect.
constexpr int kConnectMs = 5000;

std::chrono::system_clock::time_point After(absl::Duration wait) {
  return std::chrono::system_clock::now() + absl::ToChronoMicroseconds(wait);
}

// One call, read with a limit on its silence.
class Call {
 public:
  Call(v1::Inference::Stub& stub, const v1::GenerateRequest& request, const std::string& key) {
    if (!key.empty()) context_.AddMetadata("authorization", "Bearer " + key);
    reader_ = stub.PrepareAsyncGenerate(&context_, request, &queue_);
    reader_->StartCall(this);
    pending_ = true;
  }
  ~Call() {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // The next message; nothing at the end, or after so long a silence (`silent`).
  const v1::GenerateResponse* Next(absl::Duration wait) {
    if (!Await(wait)) return nullptr;  // of the start
    reader_->Read(&response_, this);
    pending_ = true;
    return Await(wait) ? &response_ : nullptr;
  }
  bool silent() const { return silent_; }
  absl::Status Finish(absl::Duration wait) {
    if (silent_) return absl::DeadlineExceededError("the master is silent");
    grpc::Status status;
    reader_->Finish(&status, this);
    pending_ = true;
    Await(wait);
    if (silent_) return absl::DeadlineExceededError("the master is silent");
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  }

 private:
  // Of the operation under way: whether it went well. At once where none is.
  bool Await(absl::Duration wait) {
    if (!std::exchange(pending_, false)) return true;
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, After(wait)) == grpc::CompletionQueue::GOT_EVENT) return ok;
    silent_ = true;
    return false;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader_;
  v1::GenerateResponse response_;
  bool pending_ = false;
  bool silent_ = false;
};

// gRPC's word for a call that a server ended by going, to which nobody gave a reason.
bool IsCutOff(const absl::Status& status) {
  return absl::IsCancelled(status) && status.message() == "CANCELLED";
}

class GrpcAsker final : public Asker {
 public:
  GrpcAsker(AskerSetup setup, const Clock& clock, uint64_t seed)
      : setup_(std::move(setup)), clock_(clock), random_(seed) {
    for (const MasterAddress& master : setup_.masters) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
      arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectFirstMs);
      arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMaxMs);
      stubs_.push_back(v1::Inference::NewStub(
          grpc::CreateCustomChannel(master.grpc, grpc::InsecureChannelCredentials(), arguments)));
    }
  }

  Asked Ask(const Question& question, Form /*form*/, const std::string& name, size_t first_master,
            Injector injector) override {
    v1::GenerateRequest request = ToGrpc(question, setup_.model);
    request.set_request_id(name);
    request.set_timeout_ms(absl::ToInt64Milliseconds(setup_.deadline));
    request.set_idempotency_key(name);
    request.set_resume_seconds(kHeldForSeconds);
    Asked asked{.transcript = Transcript(std::move(injector))};
    const absl::Duration deadline = clock_.Monotonic() + setup_.deadline;
    const absl::Duration give_up = deadline + setup_.margin;
    for (int failures = 0;;) {
      const size_t master = (first_master + static_cast<size_t>(failures)) % stubs_.size();
      asked.legs.push_back({.master = master, .from_ns = clock_.MonotonicNs()});
      request.set_first_try(failures == 0);
      asked.status = Run(*stubs_[master], request, give_up, asked);
      asked.legs.back().until_ns = clock_.MonotonicNs();
      asked.transcript.Flush();
      if (asked.status.ok()) asked.status = asked.transcript.CheckComplete(/*needs_done=*/false);
      if (asked.status.ok() || !CanGoOn(asked)) break;
      if (clock_.Monotonic() >= deadline || setup_.IsAbandoned()) break;
      absl::SleepFor(RetryPause(++failures, random_));
    }
    asked.hung = absl::IsDeadlineExceeded(asked.status) && clock_.Monotonic() >= give_up;
    return asked;
  }

 private:
  // Whether to try again: behind the last message where there was one, else from the beginning.
  static bool CanGoOn(const Asked& asked) {
    const absl::Status& status = asked.status;
    return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
           absl::IsDeadlineExceeded(status) || absl::IsAborted(status) || IsCutOff(status);
  }

  absl::Status Run(v1::Inference::Stub& stub, v1::GenerateRequest& request, absl::Duration give_up,
                   Asked& asked) {
    Call call(stub, request, setup_.key);
    const auto wait = [&] { return std::min(kSilenceMax, give_up - clock_.Monotonic()); };
    while (const v1::GenerateResponse* response = call.Next(wait())) {
      asked.transcript.OnGrpc(*response, clock_.MonotonicNs());
      request.set_resume_token(response->resume_token());
      if (clock_.Monotonic() >= give_up) return absl::DeadlineExceededError("no end in time");
    }
    return call.Finish(wait());
  }

  const AskerSetup setup_;
  const Clock& clock_;
  SeededRandom random_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
};

}  // namespace

std::unique_ptr<Asker> MakeGrpcAsker(AskerSetup setup, const Clock& clock, uint64_t seed) {
  return std::make_unique<GrpcAsker>(std::move(setup), clock, seed);
}

}  // namespace fathom::cli
