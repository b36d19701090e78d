// What gRPC alone takes for a stream: `fathom-grpc-probe PORT_FILE STEP_MS` listens on a free
// loopback port, writes it into the file, and answers Generate with max_tokens messages as a master
// sends them (same fields, same sizes), one in every step of all streams. There is no fleet, no
// text and no bookkeeping, and one thread for all: what a master takes more than this is its own.
// Ends with its parent.

#include <grpcpp/grpcpp.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
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

using Service = v1::Inference::WithAsyncMethod_Generate<
    v1::Inference::WithCallbackMethod_ListModels<v1::Inference::Service>>;

class ProbeService final : public Service {
 public:
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* /*request*/,
                                       v1::ListModelsResponse* /*response*/) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// One call; itself the tag of its operations, of which one is under way at a time.
class Stream {
 public:
  Stream(ProbeService& service, grpc::ServerCompletionQueue& queue,
         std::unordered_set<Stream*>& all)
      : service_(service), queue_(queue), all_(all) {
    service_.RequestGenerate(&context_, &request_, &writer_, &queue_, &queue_, this);
  }

  // An operation has ended; the last deletes this.
  void OnEvent(bool ok) {
    under_way_ = false;
    if (!begun_ && ok) {
      begun_ = true;
      new Stream(service_, queue_, all_);  // the next call's
      all_.insert(this);
      left_ = std::max(1, request_.stop().max_tokens());
      message_.set_id(std::string(kIdBytes, 'i'));
      message_.set_text_delta(" token");
      message_.add_token_ids(1000);
      message_.set_resume_token(std::string(kResumeTokenBytes, 't'));
      return;
    }
    if (!ok || finished_) {
      all_.erase(this);
      delete this;
      return;
    }
    if (left_ > 0) return;
    finished_ = under_way_ = true;
    writer_.Finish(grpc::Status::OK, this);
  }

  // One message, where the one before has gone.
  void Step() {
    if (under_way_ || left_ == 0) return;
    if (--left_ == 0) {
      message_.set_finish(v1::FINISH_REASON_LENGTH);
      message_.mutable_usage()->set_completion_tokens(1);
    }
    under_way_ = true;
    writer_.Write(message_, this);
  }

 private:
  ProbeService& service_;
  grpc::ServerCompletionQueue& queue_;
  std::unordered_set<Stream*>& all_;
  grpc::ServerContext context_;
  v1::GenerateRequest request_;
  grpc::ServerAsyncWriter<v1::GenerateResponse> writer_{&context_};
  v1::GenerateResponse message_;
  int left_ = 0;
  bool under_way_ = true;
  bool begun_ = false;
  bool finished_ = false;
};

absl::Status Run(const std::string& port_file, std::chrono::milliseconds step) {
  ProbeService service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::InternalError("gRPC makes no server");
  std::unordered_set<Stream*> streams;
  new Stream(service, *queue, streams);
  absl::Status told = WriteFileAtomically(port_file, absl::StrCat("{\"grpc\": ", port, "}\n"));
  if (!told.ok()) return told;
  for (auto next = std::chrono::system_clock::now();; next += step) {
    void* tag = nullptr;
    bool ok = false;
    while (queue->AsyncNext(&tag, &ok, next) == grpc::CompletionQueue::GOT_EVENT) {
      static_cast<Stream*>(tag)->OnEvent(ok);
    }
    for (Stream* stream : streams) stream->Step();
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
