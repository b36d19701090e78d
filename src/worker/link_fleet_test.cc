// The link with several masters, several workers, and peers that break its rules.

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "common/strings.h"
#include "fathom/v1/link.grpc.pb.h"
#include "master/fleet/link_server.h"
#include "worker/link_client.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using master::LinkServer;
using master::LinkServerOptions;
using master::WorkerInfo;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::unique_ptr<LinkServer> StartServer(LinkServerOptions options = {}) {
  options.insecure = options.tls.empty();
  auto server = LinkServer::Start(std::move(options));
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

// A peer that speaks the protocol by hand, and blocks: for what a LinkClient would never do.
class RawWorker {
 public:
  using ControlStream = grpc::ClientReaderWriter<v1::WorkerControl, v1::MasterControl>;
  using DataStream = grpc::ClientReaderWriter<v1::WorkerData, v1::MasterData>;

  explicit RawWorker(int port)
      : stub_(v1::Link::NewStub(grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                                                    grpc::InsecureChannelCredentials()))) {}
  ~RawWorker() {
    control_context_.TryCancel();
    data_context_.TryCancel();
  }

  // The master's first answer; nothing when it ended the stream.
  std::optional<v1::MasterControl> Greet(const v1::Hello& hello) {
    v1::WorkerControl message;
    *message.mutable_hello() = hello;
    return Say(message);
  }
  std::optional<v1::MasterControl> Say(const v1::WorkerControl& message) {
    if (control == nullptr) control = stub_->Control(&control_context_);
    control->Write(message);
    v1::MasterControl answer;
    if (!control->Read(&answer)) return std::nullopt;
    return answer;
  }
  void OpenData(const std::string& session_id) {
    data = stub_->Data(&data_context_);
    v1::WorkerData message;
    message.set_session_id(session_id);
    data->Write(message);
  }
  void Beat() {
    v1::WorkerControl message;
    message.mutable_heartbeat()->set_state(v1::ENGINE_STATE_READY);
    message.mutable_heartbeat()->set_credit(100);
    control->Write(message);
  }
  // How the master ended the control stream.
  grpc::Status End() {
    v1::MasterControl rest;
    while (control->Read(&rest)) {
    }
    return control->Finish();
  }

  std::unique_ptr<ControlStream> control;
  std::unique_ptr<DataStream> data;

 private:
  std::unique_ptr<v1::Link::Stub> stub_;
  grpc::ClientContext control_context_;
  grpc::ClientContext data_context_;
};

v1::Hello RawHello(const std::string& id = "raw") {
  v1::Hello hello = TestHello(id);
  hello.set_protocol(1);
  return hello;
}

TEST(LinkFleetTest, PlaintextNeedsAWord) {
  EXPECT_EQ(LinkServer::Start({}).status().code(), absl::StatusCode::kInvalidArgument);
  ScriptedEngine engine;
  LinkClientOptions options = TestOptions({});
  options.insecure = false;
  EXPECT_EQ(LinkClient(options).Start(engine.Port()).code(), absl::StatusCode::kInvalidArgument);
  options.insecure = true;
  options.masters = {"nonsense"};
  EXPECT_EQ(LinkClient(options).Start(engine.Port()).code(), absl::StatusCode::kInvalidArgument);
  options.masters = {"192.0.2.1:5000"};
  EXPECT_TRUE(LinkClient(options).Start(engine.Port()).ok());
}

TEST(LinkFleetTest, ATakenPortIsAnError) {
  const auto server = StartServer();
  EXPECT_EQ(LinkServer::Start({.port = server->port(), .insecure = true}).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(LinkFleetTest, ASecondLivingWorkerOfOneIdWaitsUntilTheFirstIsDead) {
  const auto server = StartServer();
  FleetWatch watch(*server);
  ScriptedEngine engine;
  auto first = StartClient(TestOptions({server->port()}, TestHello("w1", 'a')), engine);
  ASSERT_TRUE(watch.WaitForReady());

  RawWorker refused(server->port());
  EXPECT_FALSE(refused.Greet(RawHello("w1")).has_value());
  const grpc::Status status = refused.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(status.error_message(), HasSubstr("'w1' is linked already"));

  auto second = StartClient(TestOptions({server->port()}, TestHello("w1", 'b')), engine);
  first.reset();
  EXPECT_TRUE(watch.WaitForWorker([](const WorkerInfo& info) {
    return info.key.incarnation == "62626262626262626262626262626262" &&
           info.state == master::WorkerState::kReady;
  }));
  EXPECT_EQ(server->Snapshot()->workers.size(), 1u);
}

TEST(LinkFleetTest, OtherDigestsAreRefusedAndNamed) {
  const auto server = StartServer({.expected_models = {{"tiny", "c0ffee", "other"}}});
  RawWorker worker(server->port());
  EXPECT_FALSE(worker.Greet(RawHello()).has_value());
  const grpc::Status status = worker.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("tokenizer.json"));
  EXPECT_THAT(status.error_message(), HasSubstr("beef"));
  EXPECT_THAT(server->Snapshot()->workers, IsEmpty());

  const auto right = StartServer({.expected_models = {{"tiny", "c0ffee", "beef"}}});
  RawWorker welcome(right->port());
  EXPECT_TRUE(welcome.Greet(RawHello()).has_value());
}

TEST(LinkFleetTest, AnotherProtocolIsRefusedWithBothVersions) {
  const auto server = StartServer();
  RawWorker worker(server->port());
  v1::Hello hello = RawHello();
  hello.set_protocol(9);
  EXPECT_FALSE(worker.Greet(hello).has_value());
  const grpc::Status status = worker.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("protocol 9"));
}

TEST(LinkFleetTest, WhoDoesNotGreetProperlyIsSentAway) {
  const auto server = StartServer();
  {
    RawWorker worker(server->port());
    v1::WorkerControl beat;
    beat.mutable_heartbeat()->set_sequence(1);
    EXPECT_FALSE(worker.Say(beat).has_value());
    EXPECT_EQ(worker.End().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    RawWorker worker(server->port());
    v1::Hello hello = RawHello();
    hello.set_incarnation("short");
    EXPECT_FALSE(worker.Greet(hello).has_value());
    EXPECT_EQ(worker.End().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    RawWorker worker(server->port());
    worker.OpenData("no such session");
    v1::MasterData none;
    EXPECT_FALSE(worker.data->Read(&none));
    EXPECT_EQ(worker.data->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
  EXPECT_THAT(server->Snapshot()->workers, IsEmpty());
}

TEST(LinkFleetTest, MessagesOfANewerProtocolArePassedOver) {
  const auto server = StartServer();
  FleetWatch watch(*server);
  RawWorker worker(server->port());
  ASSERT_TRUE(worker.Greet(RawHello()).has_value());
  v1::WorkerControl unknown;  // a oneof this build does not know reads as none
  const auto* reflection = unknown.GetReflection();
  reflection->MutableUnknownFields(&unknown)->AddVarint(999, 1);
  worker.control->Write(unknown);
  worker.Beat();
  EXPECT_TRUE(
      watch.WaitForWorker([](const WorkerInfo& info) { return info.figures.credit == 100; }));
}

// Cancels and submissions travel on different streams: a cancel may be there first, and meet
// nothing.
TEST(LinkFleetTest, WhatIsTakenOnAfterItWasCancelledIsCancelledAgain) {
  const auto server = StartServer();
  FleetWatch watch(*server);
  RawWorker worker(server->port());
  const auto welcome = worker.Greet(RawHello());
  ASSERT_TRUE(welcome.has_value());
  worker.OpenData(welcome->welcome().session_id());
  worker.Beat();
  const auto info = watch.WaitForReady("raw");
  ASSERT_TRUE(info.has_value());
  const auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(watch.WaitUntil(
      [&] { return server->Submit(info->key, TestSubmission("r"), listener).ok(); }));
  server->Cancel(info->key, "r", 1, {});
  const auto read_cancel = [&] {
    v1::MasterControl message;
    while (worker.control->Read(&message)) {
      if (message.has_cancel()) return message.cancel().request_id();
      worker.Beat();
    }
    return std::string("the link has ended");
  };
  EXPECT_EQ(read_cancel(), "r");
  v1::WorkerData answer;
  v1::Accepted* accepted = answer.add_accepted();
  accepted->set_request_id("r");
  accepted->set_attempt(1);
  worker.data->Write(answer);
  EXPECT_EQ(read_cancel(), "r");
  EXPECT_THAT(listener->accepted, IsEmpty());
}

TEST(LinkFleetTest, AWorkerThatBreaksTheProtocolOnDataIsLost) {
  const auto server = StartServer();
  FleetWatch watch(*server);
  RawWorker worker(server->port());
  const auto welcome = worker.Greet(RawHello());
  ASSERT_TRUE(welcome.has_value());
  worker.OpenData(welcome->welcome().session_id());
  worker.Beat();
  const auto info = watch.WaitForReady("raw");
  ASSERT_TRUE(info.has_value());
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(server->Submit(info->key, TestSubmission("r1"), listener).ok());

  v1::WorkerData garbage;
  v1::StepOutput* output = garbage.add_outputs();
  output->set_request_id("r1");
  output->set_attempt(1);
  output->add_tokens(5);
  output->mutable_logprobs()->add_chosen(1);
  output->mutable_logprobs()->set_top(1000000);
  worker.data->Write(garbage);
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->lost.empty(); }));
  EXPECT_TRUE(watch.WaitForEmpty());
}

TEST(LinkFleetTest, ASilentWorkerIsLost) {
  const auto server = StartServer();
  FleetWatch watch(*server);
  RawWorker worker(server->port());
  const auto welcome = worker.Greet(RawHello());
  ASSERT_TRUE(welcome.has_value());
  worker.OpenData(welcome->welcome().session_id());
  worker.Beat();
  const auto info = watch.WaitForReady("raw");
  ASSERT_TRUE(info.has_value());
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(server->Submit(info->key, TestSubmission("r1"), listener).ok());
  // No heartbeat follows.
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->lost.empty(); }));
  EXPECT_THAT(std::string(Message(listener->lost[0].second)), HasSubstr("silent"));
}

TEST(LinkFleetTest, AFullOutboxRefusesAndNothingBlocks) {
  const auto server = StartServer({.outbox_bytes = 1000});
  FleetWatch watch(*server);
  RawWorker worker(server->port());
  const auto welcome = worker.Greet(RawHello());
  ASSERT_TRUE(welcome.has_value());
  worker.OpenData(welcome->welcome().session_id());
  worker.Beat();
  const auto info = watch.WaitForReady("raw");
  ASSERT_TRUE(info.has_value());
  // The worker reads none of them.
  auto listener = std::make_shared<RecordingListener>();
  absl::Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    master::Submission submission = TestSubmission(std::to_string(i));
    submission.prompt.assign(100'000, 1'000'000);
    worker.Beat();
    status = server->Submit(info->key, std::move(submission), listener);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(LinkFleetTest, AWorkerWhoseOutboxOverflowsGivesTheLinkUp) {
  const auto server = StartServer();
  FleetWatch watch(*server);
  ScriptedEngine engine;
  LinkClientOptions options = TestOptions({server->port()});
  options.outbox_bytes = 1;  // one message at a time fits
  const auto client = StartClient(options, engine);
  const auto info = watch.WaitForReady();
  ASSERT_TRUE(info.has_value());
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(server->Submit(info->key, TestSubmission("r1"), listener).ok());
  ASSERT_TRUE(engine.WaitUntil([&] { return !engine.submitted.empty(); }));
  for (int i = 0; i < 2000; ++i) {
    client->OnStep({TestOutput("r1", 1, i * 1000, std::vector<TokenId>(1000, 1'000'000))});
  }
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->lost.empty(); }));
  EXPECT_TRUE(watch.WaitForReady());  // it dials again
}

// Two masters and a worker that knows one of them.
class TwoMastersTest : public ::testing::Test {
 protected:
  TwoMastersTest() {
    master_b_ = StartServer({.master_id = "b"});
    master::ClusterNews news{.masters = {"127.0.0.1:" + std::to_string(master_b_->port())}};
    master_a_ = StartServer({.master_id = "a", .cluster = [news] { return news; }});
    watch_a_.emplace(*master_a_);
    watch_b_.emplace(*master_b_);
  }
  void StartWorker(absl::Duration hold) {
    LinkClientOptions options = TestOptions({master_a_->port()});
    options.hold.hold_ns = absl::ToInt64Nanoseconds(hold);
    client_ = StartClient(options, engine_);
    const auto info = watch_a_->WaitForReady();
    ASSERT_TRUE(info.has_value());
    key_ = info->key;
    ASSERT_TRUE(watch_b_->WaitForReady());
  }
  std::shared_ptr<RecordingListener> Run(LinkServer& server, const std::string& id) {
    auto listener = std::make_shared<RecordingListener>();
    master::Submission submission = TestSubmission(id);
    submission.resume_context = "proof";
    EXPECT_TRUE(server.Submit(key_, submission, listener).ok());
    EXPECT_TRUE(engine_.WaitUntil([&] {
      return std::any_of(engine_.submitted.begin(), engine_.submitted.end(),
                         [&](const EngineRequest& request) { return request.id == id; });
    }));
    return listener;
  }

  ScriptedEngine engine_;
  std::unique_ptr<LinkServer> master_a_;
  std::unique_ptr<LinkServer> master_b_;
  std::optional<FleetWatch> watch_a_;
  std::optional<FleetWatch> watch_b_;
  master::WorkerKey key_;
  std::unique_ptr<LinkClient> client_;  // goes first
};

TEST_F(TwoMastersTest, OneAddressFindsBothAndCreditIsShared) {
  StartWorker(absl::Seconds(10));
  const auto shared = [](const WorkerInfo& info) { return info.figures.credit == 500; };
  EXPECT_TRUE(watch_a_->WaitForWorker(shared));
  EXPECT_TRUE(watch_b_->WaitForWorker(shared));
  master_a_->ReportBacklog("tiny", 5000);
  EXPECT_TRUE(
      watch_a_->WaitForWorker([](const WorkerInfo& info) { return info.figures.credit == 875; }));
}

TEST_F(TwoMastersTest, OutputsGoToTheirMasterAlone) {
  StartWorker(absl::Seconds(10));
  const auto of_a = Run(*master_a_, "ra");
  const auto of_b = Run(*master_b_, "rb");
  client_->OnStep({TestOutput("ra", 1, 0, {1}, FinishReason::kStop),
                   TestOutput("rb", 1, 0, {2}, FinishReason::kStop)});
  ASSERT_TRUE(of_a->WaitUntil([&] { return !of_a->finishes.empty(); }));
  ASSERT_TRUE(of_b->WaitUntil([&] { return !of_b->finishes.empty(); }));
  EXPECT_THAT(of_a->tokens, ElementsAre(1));
  EXPECT_THAT(of_b->tokens, ElementsAre(2));
}

TEST_F(TwoMastersTest, ADeadMastersRequestsAreHeldThenCancelledAndOthersGoOn) {
  StartWorker(absl::Milliseconds(100));
  Run(*master_a_, "ra");
  const auto of_b = Run(*master_b_, "rb");
  watch_a_.reset();
  master_a_.reset();
  ASSERT_TRUE(engine_.WaitUntil([&] { return !engine_.cancelled.empty(); }));
  EXPECT_EQ(engine_.cancelled.size(), 1u);
  EXPECT_EQ(engine_.cancelled[0].id, "ra");
  client_->OnStep({TestOutput("rb", 1, 0, {2}, FinishReason::kStop)});
  ASSERT_TRUE(of_b->WaitUntil([&] { return !of_b->finishes.empty(); }));
  EXPECT_THAT(of_b->lost, IsEmpty());
}

// What a claim brought, once it is over.
class Claimant : public Waitable {
 public:
  void Claim(LinkServer& master, const std::string& id, const std::string& context = "proof") {
    master.Claim({.request_id = id, .resume_context = context, .cost = 10}, listener,
                 [this](master::ClaimOutcome got) { With([&] { outcome = std::move(got); }); });
    ASSERT_TRUE(WaitUntil([&] { return outcome.has_value(); }));
  }

  std::optional<master::ClaimOutcome> outcome;
  const std::shared_ptr<RecordingListener> listener = std::make_shared<RecordingListener>();
};

TEST_F(TwoMastersTest, WhatADeadMasterHadIsClaimed) {
  StartWorker(absl::Seconds(30));
  Run(*master_a_, "r");
  client_->OnStep({TestOutput("r", 1, 0, {10, 11})});
  watch_a_.reset();
  master_a_.reset();
  client_->OnStep({TestOutput("r", 1, 2, {12})});
  Claimant claimant;
  claimant.Claim(*master_b_, "r");
  ASSERT_EQ(claimant.outcome->found.size(), 1u);
  const master::ClaimedWork& work = claimant.outcome->found[0];
  EXPECT_EQ(work.worker, key_);
  EXPECT_EQ(work.attempt, 1u);
  EXPECT_THAT(work.choices[0].tokens, ElementsAre(10, 11, 12));
  EXPECT_TRUE(watch_b_->WaitForWorker([](const WorkerInfo& info) { return info.in_flight == 1; }));
  client_->OnStep({TestOutput("r", 1, 3, {13}, FinishReason::kStop)});
  ASSERT_TRUE(claimant.listener->WaitUntil([&] { return !claimant.listener->finishes.empty(); }));
  EXPECT_THAT(claimant.listener->tokens, ElementsAre(13));
  EXPECT_THAT(engine_.cancelled, IsEmpty());
}

TEST_F(TwoMastersTest, WhatALivingMasterHasIsClaimedFromIt) {
  StartWorker(absl::Seconds(30));
  const auto of_a = Run(*master_a_, "r");
  client_->OnStep({TestOutput("r", 1, 0, {10})});
  Claimant claimant;
  claimant.Claim(*master_b_, "r");
  ASSERT_EQ(claimant.outcome->found.size(), 1u);
  ASSERT_TRUE(of_a->WaitUntil([&] { return !of_a->finishes.empty(); }));
  EXPECT_TRUE(of_a->outputs.back().taken_over);
  // Its old owner can do nothing to it any more.
  master_a_->Cancel(key_, "r", 1, {});
  client_->OnStep({TestOutput("r", 1, 1, {11})});
  ASSERT_TRUE(claimant.listener->WaitUntil([&] { return claimant.listener->tokens.size() == 1; }));
  master_b_->Cancel(key_, "r", 1, {});
  ASSERT_TRUE(engine_.WaitUntil([&] { return !engine_.cancelled.empty(); }));
  EXPECT_EQ(engine_.cancelled.size(), 1u);
}

TEST_F(TwoMastersTest, NothingIsClaimedThatIsNotThereOrIsAnothers) {
  StartWorker(absl::Seconds(30));
  Run(*master_a_, "r");
  Claimant nobody;
  nobody.Claim(*master_b_, "nobody");
  EXPECT_THAT(nobody.outcome->found, IsEmpty());
  EXPECT_FALSE(nobody.outcome->other_context);
  Claimant other;
  other.Claim(*master_b_, "r", "another proof");
  EXPECT_THAT(other.outcome->found, IsEmpty());
  EXPECT_TRUE(other.outcome->other_context);
  // Without a worker there is nobody to wait for.
  client_.reset();
  ASSERT_TRUE(watch_b_->WaitUntil([&] { return master_b_->Snapshot()->workers.empty(); }));
  Claimant alone;
  alone.Claim(*master_b_, "r");
  EXPECT_THAT(alone.outcome->found, IsEmpty());
}

}  // namespace
}  // namespace fathom::worker
