#pragma once

// For tests of the link: a master by hand, which says what the test says and keeps what it hears.
// Not part of any binary.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fathom/v1/link.grpc.pb.h"
#include "worker/link_testing.h"

namespace fathom::worker {

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
  template <typename Change>
  void Set(Change change) {
    With(change);
  }
  void Send(v1::MasterControl message) {
    With([&] { to_send_.push_back(std::move(message)); });
  }
  void Submit(v1::Submit submit) {
    With([&] { *to_submit_.emplace_back().mutable_submit() = std::move(submit); });
  }

  grpc::Status Control(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::MasterControl, v1::WorkerControl>* stream) override {
    v1::WorkerControl message;
    if (!stream->Read(&message)) return grpc::Status::OK;
    With([&] { heard.push_back(message); });
    WaitUntil([&] { return welcomes || stop_; });
    v1::MasterControl welcome;
    welcome.mutable_welcome()->set_session_id("session");
    welcome.mutable_welcome()->set_heartbeat_ms(20);
    stream->Write(welcome);
    const std::jthread listening([&] {
      v1::WorkerControl said;
      while (stream->Read(&said)) {
        With([&] { heard.push_back(said); });
      }
    });
    TellAll(to_send_, stream);
    context->TryCancel();  // so that the reading ends
    return grpc::Status::OK;
  }
  grpc::Status Data(grpc::ServerContext* context,
                    grpc::ServerReaderWriter<v1::MasterData, v1::WorkerData>* stream) override {
    const std::jthread listening([&] {
      v1::WorkerData message;
      while (stream->Read(&message)) {
        With([&] { received.push_back(message); });
      }
    });
    TellAll(to_submit_, stream);
    context->TryCancel();
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
  std::vector<v1::WorkerControl> heard;  // on Control, Hello first
  bool welcomes = true;                  // else Welcome waits until it does

 private:
  template <typename Message, typename Stream>
  void TellAll(std::deque<Message>& queue, Stream* stream) {
    while (true) {
      Message next;
      bool stop = false;
      if (!WaitUntil([&] {
            stop = stop_;
            if (queue.empty()) return stop;
            next = std::move(queue.front());
            queue.pop_front();
            return true;
          }) ||
          stop || !stream->Write(next)) {
        return;
      }
    }
  }

  std::deque<v1::MasterControl> to_send_;
  std::deque<v1::MasterData> to_submit_;
  bool stop_ = false;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace fathom::worker
