// The link both ways over real gRPC on loopback, with a scripted engine.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/strings.h"
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

// One master and one worker.
class LinkTest : public ::testing::Test {
 protected:
  LinkTest() {
    EXPECT_TRUE(engine_.Serve(*client_).ok());
    const auto info = watch_.WaitForReady();
    EXPECT_TRUE(info.has_value());
    if (info) worker_ = info->key;
  }
  ~LinkTest() override {
    client_.reset();
    server_->Stop();
  }

  std::shared_ptr<RecordingListener> Submit(master::Submission submission) {
    auto listener = std::make_shared<RecordingListener>();
    const absl::Status status = server_->Submit(worker_, std::move(submission), listener);
    EXPECT_TRUE(status.ok()) << status;
    return listener;
  }
  // Submits, and waits until the engine has it.
  std::shared_ptr<RecordingListener> Run(const master::Submission& submission) {
    auto listener = Submit(submission);
    EXPECT_TRUE(engine_.WaitUntil([&] {
      return std::any_of(engine_.submitted.begin(), engine_.submitted.end(), [&](const auto& r) {
        return r.id == submission.request_id && r.attempt == submission.attempt;
      });
    }));
    return listener;
  }
  void Emit(SequenceOutput output) { client_->OnStep({std::move(output)}); }
  WorkerInfo Info() { return server_->Snapshot()->workers.at(0); }

  ScriptedEngine engine_;
  std::unique_ptr<LinkServer> server_ = StartServer();
  FleetWatch watch_{*server_};
  std::unique_ptr<LinkClient> client_ =
      std::make_unique<LinkClient>(TestOptions({server_->port()}));
  master::WorkerKey worker_;
};

TEST_F(LinkTest, HelloFillsTheRegistry) {
  const WorkerInfo info = Info();
  EXPECT_EQ(info.key.id, "w1");
  EXPECT_EQ(info.key.incarnation, "61616161616161616161616161616161");
  ASSERT_EQ(info.models.size(), 1u);
  EXPECT_EQ(info.models[0].name, "tiny");
  EXPECT_EQ(info.models[0].context_length, 1000);
  EXPECT_EQ(info.figures.credit, 1000);
  EXPECT_EQ(info.figures.total_blocks, 10);
  EXPECT_EQ(client_->linked(), 1);
}

TEST_F(LinkTest, HeartbeatsTellWhatIsQueuedAndHowFastItGoes) {
  engine_.Set([&] {
    engine_.stats.queued_tokens = 5000;
    engine_.stats.prefill_tokens_per_second = 40'000;
    engine_.stats.step_ns = 4'000'000;
  });
  const auto info = watch_.WaitForWorker(
      [](const WorkerInfo& worker) { return worker.figures.queued_tokens == 5000; });
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->figures.prefill_tokens_per_second, 40'000);
  EXPECT_FLOAT_EQ(info->figures.step_seconds, 0.004F);
  EXPECT_GT(info->heard_ns, 0);
}

TEST_F(LinkTest, ASubmissionArrivesWholeAndItsTokensComeBack) {
  master::Submission submission = TestSubmission("r1");
  submission.priority = 3;
  submission.tenant_hash = 99;
  submission.cache_salt = "salt";
  submission.choices = {{0, {}}, {1, {8, 9}}};
  submission.sampling = {.temperature = 0.5F, .top_k = 7, .logit_bias = {{4, -1.5F}}, .seed = 12};
  submission.stop = {.max_tokens = 20, .min_tokens = 2, .ignore_eos = true, .stop_token_ids = {6}};
  submission.logprobs = {.output = true, .output_top = 1, .prompt = 0};
  submission.grammar = {GrammarKind::kRegex, "a+"};
  submission.remaining = absl::Seconds(100);
  const auto listener = Run(submission);

  const EngineRequest& got = engine_.submitted.at(0);
  EXPECT_EQ(got.id, "r1");
  EXPECT_EQ(got.attempt, 1u);
  EXPECT_THAT(got.prompt, ElementsAre(1, 2, 3));
  ASSERT_EQ(got.choices.size(), 2u);
  EXPECT_THAT(got.choices[1].tokens, ElementsAre(8, 9));
  EXPECT_EQ(got.sampling.top_k, 7);
  EXPECT_EQ(got.sampling.seed, 12u);
  EXPECT_EQ(got.sampling.logit_bias.at(0).bias, -1.5F);
  EXPECT_TRUE(got.stop.ignore_eos);
  EXPECT_THAT(got.stop.stop_token_ids, ElementsAre(6));
  EXPECT_EQ(got.logprobs.prompt, 0);
  EXPECT_EQ(got.grammar->kind, GrammarKind::kRegex);
  EXPECT_EQ(got.priority, 3);
  EXPECT_EQ(got.tenant_hash, 99u);
  EXPECT_EQ(got.cache_salt, "salt");
  EXPECT_GT(got.deadline_ns, Clock::Real()->MonotonicNs());
  EXPECT_EQ(Info().in_flight_cost, 10);

  SequenceOutput first = TestOutput("r1", 1, 0, {50});
  first.logprobs = {{{50, -0.1F}, {{51, -0.2F}}}};
  first.prompt_logprobs = {{{2, -1.0F}, {}}, {{3, -2.0F}, {}}};
  first.cached_tokens = 2;
  SequenceOutput second = TestOutput("r1", 1, 2, {70}, FinishReason::kLength);
  second.choice = 1;
  client_->OnStep({first, second});
  Emit(TestOutput("r1", 1, 1, {60, 61}, FinishReason::kStop));

  ASSERT_TRUE(listener->WaitUntil([&] { return listener->finishes.size() == 2; }));
  EXPECT_THAT(listener->accepted, ElementsAre(1u));
  ASSERT_EQ(listener->outputs.size(), 3u);
  EXPECT_EQ(listener->outputs[0].cached_tokens, 2);
  EXPECT_EQ(listener->outputs[0].logprobs.at(0).chosen.token, 50);
  EXPECT_EQ(listener->outputs[0].logprobs.at(0).top.at(0).token, 51);
  EXPECT_EQ(listener->outputs[0].prompt_logprobs.at(1).chosen.token, 3);
  EXPECT_EQ(listener->outputs[0].prompt_logprobs.at(1).chosen.logprob, -2.0F);
  EXPECT_EQ(listener->outputs[1].choice, 1);
  EXPECT_EQ(listener->outputs[1].first_index, 2);
  EXPECT_THAT(listener->outputs[2].tokens, ElementsAre(60, 61));
  EXPECT_TRUE(watch_.WaitForWorker([](const WorkerInfo& info) { return info.in_flight == 0; }));
  EXPECT_EQ(Info().in_flight_cost, 0);
}

TEST_F(LinkTest, CancelReachesTheEngineAndFreesTheCredit) {
  const auto listener = Run(TestSubmission("r1"));
  server_->Cancel(worker_, "r1", 1, {});
  // Twice, where the news that it was taken on came after the cancel.
  ASSERT_TRUE(engine_.WaitUntil([&] { return !engine_.cancelled.empty(); }));
  EXPECT_EQ(engine_.cancelled[0].id, "r1");
  EXPECT_EQ(engine_.cancelled[0].attempt, 1u);
  EXPECT_THAT(engine_.cancelled[0].choices, IsEmpty());
  EXPECT_EQ(Info().in_flight_cost, 0);
  EXPECT_EQ(listener.use_count(), 1);
}

TEST_F(LinkTest, OneChoiceIsCancelledAndTheOtherGoesOn) {
  master::Submission submission = TestSubmission("r1");
  submission.choices = {{0, {}}, {1, {}}};
  const auto listener = Run(submission);
  server_->Cancel(worker_, "r1", 1, {1});
  SequenceOutput late = TestOutput("r1", 1, 0, {99});
  late.choice = 1;
  Emit(late);
  Emit(TestOutput("r1", 1, 0, {5}, FinishReason::kStop));
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->finishes.empty(); }));
  EXPECT_THAT(listener->tokens, ElementsAre(5));
}

TEST_F(LinkTest, WhatTheMasterNoLongerKnowsIsCancelledAgain) {
  // As when Cancel on one stream overtakes Submit on the other.
  const auto listener = Run(TestSubmission("r1"));
  server_->Cancel(worker_, "r1", 1, {});
  ASSERT_TRUE(engine_.WaitUntil([&] { return !engine_.cancelled.empty(); }));
  engine_.Set([&] { engine_.cancelled.clear(); });
  Emit(TestOutput("r1", 1, 0, {5}));
  EXPECT_TRUE(engine_.WaitUntil([&] { return !engine_.cancelled.empty(); }));
  EXPECT_THAT(listener->tokens, IsEmpty());
}

TEST_F(LinkTest, WhoIsSupersededByAnotherHearsOfIt) {
  const auto first = Run(TestSubmission("r1", 1));
  const auto second = Run(TestSubmission("r1", 2));
  ASSERT_TRUE(first->WaitUntil([&] { return !first->finishes.empty(); }));
  EXPECT_TRUE(first->outputs.back().taken_over);
  Emit(TestOutput("r1", 2, 0, {5}, FinishReason::kStop));
  ASSERT_TRUE(second->WaitUntil([&] { return second->finishes.size() == 1; }));
  EXPECT_FALSE(second->outputs.back().taken_over);
  EXPECT_EQ(Info().in_flight_cost, 0);
}

TEST_F(LinkTest, TheEnginesRefusalIsARejection) {
  engine_.Set([&] { engine_.refusal = absl::ResourceExhaustedError("too many wait"); });
  const auto listener = Submit(TestSubmission("r1"));
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->rejected.empty(); }));
  EXPECT_EQ(listener->rejected[0].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(listener->retry_after, absl::ZeroDuration());
  EXPECT_EQ(Info().in_flight_cost, 0);
  EXPECT_THAT(listener->accepted, IsEmpty());
}

TEST_F(LinkTest, ABadRequestIsRejectedWithTheField) {
  master::Submission submission = TestSubmission("r1");
  submission.sampling.top_p = 0;
  const auto listener = Submit(submission);
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->rejected.empty(); }));
  EXPECT_EQ(listener->rejected[0].code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Message(listener->rejected[0])), HasSubstr("top_p"));
}

TEST_F(LinkTest, AnUnknownModelIsRejected) {
  master::Submission submission = TestSubmission("r1");
  submission.model = "other";
  const auto listener = Submit(submission);
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->rejected.empty(); }));
  EXPECT_EQ(listener->rejected[0].code(), absl::StatusCode::kNotFound);
}

TEST_F(LinkTest, ADeadWorkerIsLostOnceAndARestartedOneServes) {
  const auto listener = Run(TestSubmission("r1"));
  Emit(TestOutput("r1", 1, 0, {5}));
  ASSERT_TRUE(listener->WaitUntil([&] { return listener->tokens.size() == 1; }));
  client_.reset();
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->lost.empty(); }));
  ASSERT_TRUE(watch_.WaitForEmpty());
  EXPECT_EQ(listener->lost.size(), 1u);
  EXPECT_EQ(listener->lost[0].first, 1u);
  EXPECT_EQ(server_->Submit(worker_, TestSubmission("r2"), listener).code(),
            absl::StatusCode::kUnavailable);

  client_ = std::make_unique<LinkClient>(TestOptions({server_->port()}, TestHello("w1", 'b')));
  ASSERT_TRUE(engine_.Serve(*client_).ok());
  const auto info = watch_.WaitForReady();
  ASSERT_TRUE(info.has_value());
  EXPECT_NE(info->key, worker_);
  worker_ = info->key;
  const auto again = Run(TestSubmission("r1", 2));
  Emit(TestOutput("r1", 2, 0, {6}, FinishReason::kStop));
  ASSERT_TRUE(again->WaitUntil([&] { return !again->finishes.empty(); }));
  EXPECT_THAT(again->tokens, ElementsAre(6));
}

TEST_F(LinkTest, OutputsOfAnOldAttemptAreDropped) {
  const auto old = Run(TestSubmission("r1", 1));
  const auto fresh = Run(TestSubmission("r1", 2));
  Emit(TestOutput("r1", 1, 0, {5}));
  Emit(TestOutput("r1", 2, 0, {6}, FinishReason::kStop));
  ASSERT_TRUE(fresh->WaitUntil([&] { return !fresh->finishes.empty(); }));
  EXPECT_THAT(fresh->tokens, ElementsAre(6));
  EXPECT_THAT(old->tokens, IsEmpty());
  EXPECT_EQ(server_->Snapshot()->workers.at(0).in_flight_cost, 0);
}

TEST_F(LinkTest, TheSameAttemptTwiceIsRefused) {
  const auto listener = Run(TestSubmission("r1", 2));
  EXPECT_EQ(server_->Submit(worker_, TestSubmission("r1", 2), listener).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(server_->Submit(worker_, TestSubmission("r1", 1), listener).code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(LinkTest, AGapEndsTheAttemptAndARepeatIsCut) {
  const auto repeat = Run(TestSubmission("r1"));
  Emit(TestOutput("r1", 1, 0, {5, 6}));
  Emit(TestOutput("r1", 1, 1, {6, 7}, FinishReason::kStop));
  ASSERT_TRUE(repeat->WaitUntil([&] { return !repeat->finishes.empty(); }));
  EXPECT_THAT(repeat->tokens, ElementsAre(5, 6, 7));

  const auto gap = Run(TestSubmission("r2"));
  Emit(TestOutput("r2", 1, 0, {5}));
  Emit(TestOutput("r2", 1, 2, {7}));
  ASSERT_TRUE(gap->WaitUntil([&] { return !gap->lost.empty(); }));
  EXPECT_THAT(gap->tokens, ElementsAre(5));
  EXPECT_EQ(gap->lost[0].second.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(engine_.WaitUntil([&] { return !engine_.cancelled.empty(); }));
}

TEST_F(LinkTest, ALeavingWorkerFinishesAndTakesNothingNew) {
  const auto listener = Run(TestSubmission("r1"));
  client_->Leave("SIGTERM");
  ASSERT_TRUE(watch_.WaitForWorker(
      [](const WorkerInfo& info) { return info.state == master::WorkerState::kDraining; }));
  EXPECT_EQ(server_->Submit(worker_, TestSubmission("r2"), listener).code(),
            absl::StatusCode::kUnavailable);
  Emit(TestOutput("r1", 1, 0, {5}, FinishReason::kStop));
  client_->Stop();  // what was put out before still arrives
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->finishes.empty(); }));
  EXPECT_THAT(listener->lost, IsEmpty());
}

TEST_F(LinkTest, AnEnginePastItsDeadlineIsDead) {
  const auto listener = Run(TestSubmission("r1"));
  engine_.Set([&] { engine_.stats.step_deadline_ns = Clock::Real()->MonotonicNs() - 1; });
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->lost.empty(); }));
  EXPECT_THAT(std::string(Message(listener->lost[0].second)), HasSubstr("hangs"));
}

// As of a process that was stopped, and goes on.
TEST_F(LinkTest, AnEngineThatIsLateForAMomentIsNotDead) {
  const auto listener = Run(TestSubmission("r1"));
  const auto beats = [&] { return Info().heard_ns; };
  engine_.Set([&] { engine_.stats.step_deadline_ns = Clock::Real()->MonotonicNs() - 1; });
  const int64_t before = beats();
  ASSERT_TRUE(engine_.WaitUntil([&] { return beats() > before; }));
  engine_.Set([&] { engine_.stats.step_deadline_ns = 0; });
  Emit(TestOutput("r1", 1, 0, {5}, FinishReason::kStop));
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->finishes.empty(); }));
  EXPECT_THAT(listener->lost, IsEmpty());
}

TEST_F(LinkTest, ADeadEngineIsReportedAtOnce) {
  const auto listener = Run(TestSubmission("r1"));
  engine_.Set([&] { engine_.stats.state = EngineState::kDead; });
  client_->OnDead(absl::InternalError("device"));
  ASSERT_TRUE(listener->WaitUntil([&] { return !listener->lost.empty(); }));
}

TEST_F(LinkTest, AStoppingMasterTellsEveryListener) {
  const auto listener = Run(TestSubmission("r1"));
  server_->Stop();
  EXPECT_EQ(listener->lost.size(), 1u);
  EXPECT_THAT(server_->Snapshot()->workers, IsEmpty());
}

TEST_F(LinkTest, ARestartedMasterIsFoundAgainAndServed) {
  const auto lost = Run(TestSubmission("r1"));
  const int port = server_->port();
  server_->Stop();
  EXPECT_EQ(lost->lost.size(), 1u);
  const std::unique_ptr<LinkServer> again = StartServer({.port = port});
  FleetWatch watch(*again);
  const auto info = watch.WaitForReady();
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->key, worker_);  // the worker's life went on
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(again->Submit(worker_, TestSubmission("r2"), listener).ok());
  ASSERT_TRUE(engine_.WaitUntil([&] { return engine_.submitted.size() == 2; }));
  Emit(TestOutput("r2", 1, 0, {5}, FinishReason::kStop));
  EXPECT_TRUE(listener->WaitUntil([&] { return !listener->finishes.empty(); }));
  client_.reset();
}

TEST_F(LinkTest, AListenerMayCallBack) {
  struct Caller : RecordingListener {
    void OnOutput(master::SubmissionOutput output) override {
      fleet->Cancel(worker, "r1", 1, {});
      RecordingListener::OnOutput(std::move(output));
    }
    master::Fleet* fleet = nullptr;
    master::WorkerKey worker;
  };
  auto caller = std::make_shared<Caller>();
  caller->fleet = server_.get();
  caller->worker = worker_;
  ASSERT_TRUE(server_->Submit(worker_, TestSubmission("r1"), caller).ok());
  ASSERT_TRUE(engine_.WaitUntil([&] { return !engine_.submitted.empty(); }));
  Emit(TestOutput("r1", 1, 0, {5}));
  EXPECT_TRUE(caller->WaitUntil([&] { return caller->tokens.size() == 1; }));
}

TEST_F(LinkTest, ManySubmissionsAtOnceAllEnd) {
  constexpr int kRequests = 500;
  std::vector<std::shared_ptr<RecordingListener>> listeners;
  for (int i = 0; i < kRequests; ++i)
    listeners.push_back(Submit(TestSubmission(std::to_string(i))));
  ASSERT_TRUE(engine_.WaitUntil([&] { return engine_.submitted.size() == kRequests; }));
  for (int step = 0; step < 7; ++step) {
    std::vector<SequenceOutput> outputs;
    for (int i = 0; i < kRequests; ++i) {
      outputs.push_back(TestOutput(std::to_string(i), 1, step, {i + step},
                                   step == 6 ? FinishReason::kLength : FinishReason::kNone));
    }
    client_->OnStep(std::move(outputs));
  }
  for (int i = 0; i < kRequests; ++i) {
    auto& listener = *listeners[i];
    ASSERT_TRUE(listener.WaitUntil([&] { return !listener.finishes.empty(); }));
    EXPECT_THAT(listener.tokens, ElementsAre(i, i + 1, i + 2, i + 3, i + 4, i + 5, i + 6));
  }
}

TEST(LinkPaceTest, AnEngineFasterThanTheLinkWaitsForIt) {
  constexpr int kSteps = 10'000;
  const auto server = StartServer();
  FleetWatch watch(*server);
  ScriptedEngine engine;
  ModelNews news = engine.Ready();
  news.engine->submit = [&engine, submit = news.engine->submit](EngineRequest request) {
    if (request.id == "slow") {
      engine.Set([&] { engine.cancelled.push_back({"slow begins"}); });
      absl::SleepFor(absl::Milliseconds(200));
    }
    return submit(std::move(request));
  };
  LinkClient client(TestOptions({server->port()}));
  client.OnModel(std::move(news));
  ASSERT_TRUE(client.Start(engine.Port()).ok());
  const auto info = watch.WaitForReady();
  ASSERT_TRUE(info.has_value());
  auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(server->Submit(info->key, TestSubmission("r1"), listener).ok());
  ASSERT_TRUE(server->Submit(info->key, TestSubmission("slow"), listener).ok());
  ASSERT_TRUE(engine.WaitUntil([&] { return !engine.cancelled.empty(); }));
  for (int i = 0; i < kSteps; ++i) client.OnStep({TestOutput("r1", 1, i, {i})});
  client.OnStep({TestOutput("r1", 1, kSteps, {kSteps}, FinishReason::kStop)});
  ASSERT_TRUE(
      listener->WaitUntil([&] { return !listener->finishes.empty() || !listener->lost.empty(); }));
  EXPECT_THAT(listener->lost, IsEmpty());
  EXPECT_EQ(listener->tokens.size(), kSteps + 1);
}

}  // namespace
}  // namespace fathom::worker
