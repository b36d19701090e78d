// Orders that carry a leader's epoch.

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "fathom/v1/link.grpc.pb.h"
#include "worker/link_client.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

// A master by hand, which says what it likes and keeps what it hears.
class HandMaster final : public v1::Link::Service, public Waitable {
 public:
  HandMaster() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~HandMaster() override {
    With([&] { stop_ = true; });
    server_->Shutdown(std::chrono::system_clock::now());
  }
  void Send(v1::MasterControl message) {
    With([&] { to_send_.push_back(std::move(message)); });
  }

  grpc::Status Control(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::MasterControl, v1::WorkerControl>* stream) override {
    v1::WorkerControl message;
    if (!stream->Read(&message)) return grpc::Status::OK;
    v1::MasterControl welcome;
    welcome.mutable_welcome()->set_session_id("session");
    stream->Write(welcome);
    while (true) {
      v1::MasterControl next;
      bool stop = false;
      if (!WaitUntil([&] {
            stop = stop_;
            if (to_send_.empty()) return stop;
            next = std::move(to_send_.front());
            to_send_.pop_front();
            return true;
          }) ||
          stop || !stream->Write(next)) {
        return grpc::Status::OK;
      }
    }
  }
  grpc::Status Data(grpc::ServerContext*,
                    grpc::ServerReaderWriter<v1::MasterData, v1::WorkerData>* stream) override {
    v1::WorkerData message;
    while (stream->Read(&message)) {
      With([&] { received.push_back(message); });
    }
    return grpc::Status::OK;
  }

  grpc::Status Bulk(grpc::ServerContext*,
                    grpc::ServerReaderWriter<v1::MasterBulk, v1::WorkerBulk>* stream) override {
    v1::WorkerBulk message;
    while (stream->Read(&message)) {
    }
    return grpc::Status::OK;
  }

  int port = 0;
  std::vector<v1::WorkerData> received;

 private:
  std::deque<v1::MasterControl> to_send_;
  bool stop_ = false;
  std::unique_ptr<grpc::Server> server_;
};

TEST(LinkEpochTest, OrdersOfAnOldLeaderAreRefused) {
  HandMaster master;
  ScriptedEngine engine;
  LinkClientOptions options = TestOptions({master.port});
  options.silence_floor = absl::Minutes(1);  // this master sends no heartbeats
  const auto client = StartClient(options, engine);
  ASSERT_TRUE(master.WaitUntil([&] { return !master.received.empty(); }));
  const auto order = [&](uint64_t epoch) {
    v1::MasterControl drain;
    drain.mutable_drain()->set_epoch(epoch);
    master.Send(drain);
  };
  order(5);
  ASSERT_TRUE(engine.WaitUntil([&] { return engine.leaves == 1; }));
  order(4);
  order(6);  // comes after the refused one
  ASSERT_TRUE(engine.WaitUntil([&] { return engine.leaves == 2; }));
  order(4);
  order(6);
  ASSERT_TRUE(engine.WaitUntil([&] { return engine.leaves == 3; }));
}

}  // namespace
}  // namespace fathom::worker
