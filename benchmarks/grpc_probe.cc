// What gRPC alone takes for a stream: `fathom-grpc-probe PORT_FILE STEP_MS` listens on a free
// loopback port, writes it into the file, and answers Generate with max_tokens messages as a master
// sends them (same fields, same sizes), one in every step of all streams. There is no fleet, no
// text and no bookkeeping: what a master takes more than this is its own. Ends with its parent.

#include <grpcpp/grpcpp.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/strings.h"
#include "fathom/v1/inference.grpc.pb.h"

namespace fathom {
namespace {

constexpr int kStepMsMax = 10'000;
constexpr size_t kIdBytes = 36;
constexpr size_t kResumeTokenBytes = 96;

class Stream;

class ProbeService final : public v1::Inference::CallbackService {
 public:
  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* /*request*/,
                                       v1::ListModelsResponse* /*response*/) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  void Step();
  void Forget(Stream* stream) {
    const std::lock_guard lock(mutex_);
    streams_.erase(stream);
  }

 private:
  std::mutex mutex_;
  std::unordered_set<Stream*> streams_;  // protected by mutex_
};

class Stream final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  Stream(ProbeService& owner, int tokens) : owner_(owner), left_(tokens) {
    message_.set_id(std::string(kIdBytes, 'i'));
    message_.set_text_delta(" token");
    message_.add_token_ids(1000);
    message_.set_resume_token(std::string(kResumeTokenBytes, 't'));
  }

  // One message, where the one before has gone.
  void Step() {
    const std::lock_guard lock(mutex_);
    if (writing_ || left_ == 0) return;
    if (--left_ == 0) {
      message_.set_finish(v1::FINISH_REASON_LENGTH);
      message_.mutable_usage()->set_completion_tokens(1);
    }
    writing_ = true;
    StartWrite(&message_);
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) left_ = 0;
    if (left_ == 0) Finish(grpc::Status::OK);
  }
  void OnDone() override {
    owner_.Forget(this);
    delete this;
  }

 private:
  ProbeService& owner_;
  std::mutex mutex_;
  v1::GenerateResponse message_;  // protected by mutex_, or of the write in flight
  int left_;                      // protected by mutex_
  bool writing_ = false;          // protected by mutex_
};

grpc::ServerWriteReactor<v1::GenerateResponse>* ProbeService::Generate(
    grpc::CallbackServerContext* /*context*/, const v1::GenerateRequest* request) {
  auto* stream = new Stream(*this, std::max(1, request->stop().max_tokens()));  // OnDone deletes it
  const std::lock_guard lock(mutex_);
  streams_.insert(stream);
  return stream;
}

void ProbeService::Step() {
  const std::lock_guard lock(mutex_);
  for (Stream* stream : streams_) stream->Step();
}

absl::Status Run(const std::string& port_file, std::chrono::milliseconds step) {
  ProbeService service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::InternalError("gRPC makes no server");
  absl::Status told = WriteFileAtomically(port_file, absl::StrCat("{\"grpc\": ", port, "}\n"));
  if (!told.ok()) return told;
  for (auto next = std::chrono::steady_clock::now();; next += step) {
    std::this_thread::sleep_until(next);
    service.Step();
  }
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  const int step_ms = argc == 3 ? std::atoi(argv[2]) : 0;
  if (step_ms < 1 || step_ms > fathom::kStepMsMax) {
    std::fprintf(stderr, "usage: fathom-grpc-probe PORT_FILE STEP_MS\n");
    return 2;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const absl::Status status = fathom::Run(argv[1], std::chrono::milliseconds(step_ms));
  std::fprintf(stderr, "fathom-grpc-probe: %s\n", std::string(fathom::Message(status)).c_str());
  return 1;
}
