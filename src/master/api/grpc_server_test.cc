#include "master/api/grpc_server.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "fathom/v1/admin.grpc.pb.h"
#include "master/api/grpc_call.h"

namespace fathom::master {
namespace {

using std::chrono::seconds;
using std::chrono::system_clock;

// Its calls end when the test says so.
class Held final : public v1::Admin::CallbackService {
 public:
  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context,
                                        const v1::ListWorkersRequest*,
                                        v1::ListWorkersResponse*) override {
    reactor_ = context->DefaultReactor();
    reactor_.notify_one();
    return reactor_;
  }
  void AwaitCall() { reactor_.wait(nullptr); }
  void Answer() { reactor_.load()->Finish(grpc::Status::OK); }

 private:
  std::atomic<grpc::ServerUnaryReactor*> reactor_ = nullptr;
};

std::shared_ptr<grpc::Channel> ChannelTo(const GrpcServer& server) {
  return grpc::CreateChannel(absl::StrCat("127.0.0.1:", server.port()),
                             grpc::InsecureChannelCredentials());
}

grpc::Status Ask(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  context.set_deadline(system_clock::now() + seconds(20));
  v1::ListWorkersResponse response;
  return v1::Admin::NewStub(channel)->ListWorkers(&context, {}, &response);
}

// What a call is told that is answered as soon as its client hears that the connection goes.
grpc::Status CallAcrossTheEnd() {
  Held service;
  auto server = GrpcServer::Start({}, {&service});
  if (!server.ok()) return ToGrpc(server.status());
  const auto channel = ChannelTo(**server);
  grpc::Status answered;
  std::thread caller([&] { answered = Ask(channel); });
  service.AwaitCall();
  EXPECT_TRUE(channel->WaitForConnected(system_clock::now() + seconds(20)));
  std::thread shutdown([&] { (*server)->Shutdown(); });
  EXPECT_TRUE(channel->WaitForStateChange(GRPC_CHANNEL_READY, system_clock::now() + seconds(20)));
  service.Answer();
  caller.join();
  shutdown.join();
  return answered;
}

// Cut off with the connection it would be lost. That is mostly too late to meet the answer, hence
// so many.
TEST(GrpcServerTest, ACallThatEndsAsTheServerGoesIsAnswered) {
  for (int i = 0; i < 20; ++i) {
    const grpc::Status answered = CallAcrossTheEnd();
    ASSERT_TRUE(answered.ok()) << answered.error_code() << " " << answered.error_message();
  }
}

TEST(GrpcServerTest, ACallThatDoesNotEndHoldsNobodyUp) {
  Held service;
  auto server = GrpcServer::Start({}, {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = ChannelTo(**server);
  grpc::Status answered;
  std::thread caller([&] {
    answered = Ask(channel);
    service.Answer();
  });
  service.AwaitCall();
  (*server)->Shutdown();
  caller.join();
  EXPECT_EQ(answered.error_code(), grpc::StatusCode::UNAVAILABLE) << answered.error_message();
}

}  // namespace
}  // namespace fathom::master
