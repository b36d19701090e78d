#include "master/serving/generation.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "master/serving/failure.h"
#include "master/serving/fake_fleet_testing.h"
#include "master/serving/serving.h"

namespace fathom::master {
namespace {

namespace asio = boost::asio;

const ModelPtr& TinyModel() {
  // Never destroyed: the Rust side needs its thread's storage, which goes before statics do.
  static const ModelPtr& kModel = *new ModelPtr([] {
    const char* root = std::getenv("FATHOM_SOURCE_DIR");
    auto model = LoadServedModel(absl::StrCat(root == nullptr ? "." : root, "/models/tiny"), "tiny",
                                 absl::UnixEpoch());
    EXPECT_TRUE(model.ok()) << model.status();
    return *model;
  }());
  return kModel;
}

std::vector<TokenId> Encode(const std::string& text) {
  auto ids = TinyModel()->tokenizer->Encode(text);
  EXPECT_TRUE(ids.ok());
  return *ids;
}

class RecordingSink final : public GenerationSink {
 public:
  absl::Status OnDelta(GenerationDelta delta) override {
    EXPECT_FALSE(ended) << "a delta after the end";
    if (text.size() <= static_cast<size_t>(delta.choice)) text.resize(delta.choice + 1);
    text[delta.choice] += delta.text;
    deltas.push_back(std::move(delta));
    return refuse;
  }
  void OnEnd(const absl::Status& end, const GenerationUsage& end_usage) override {
    EXPECT_FALSE(ended) << "two ends";
    ended = true;
    status = end;
    usage = end_usage;
  }

  std::vector<GenerationDelta> deltas;
  std::vector<std::string> text;
  absl::Status refuse;
  bool ended = false;
  absl::Status status;
  GenerationUsage usage;
};

WorkerLoss Broken() { return {LossKind::kBroken, absl::UnavailableError("connection reset")}; }
WorkerLoss Crash() { return {LossKind::kCrash, absl::UnavailableError("the engine is dead")}; }

// Drives the I/O context by hand on the test's thread, so that the sink needs no lock.
class GenerationTest : public testing::Test {
 protected:
  explicit GenerationTest(bool migration = true)
      : catalog_({TinyModel()}),
        serving_(
            {.admission = limits_, .cpu_threads = 1, .held_bytes = 100'000, .migration = migration},
            &fleet_, &catalog_, Clock::Real(), &random_) {
    fleet_.OnChange([this](FleetNews news) { serving_.OnFleetChange(news); });
    fleet_.SetWorkers({FakeFleet::ReadyWorker("w", *TinyModel())});
  }
  ~GenerationTest() override {
    serving_.Stop();
    fleet_.Forget();
  }

  GenerationRequest Request() {
    GenerationRequest request;
    request.id = serving_.NewId();
    request.model = TinyModel();
    request.tenant = "t";
    request.prompt = TextPrompt{"Compute 1 + 2."};
    request.stop.max_tokens = 64;
    return request;
  }

  void Start(GenerationRequest request) {
    sink_ = std::make_shared<RecordingSink>();
    asio::post(strand_, [this, request = std::move(request)]() mutable {
      generation_ = serving_.Generate(std::move(request), strand_, sink_);
    });
  }

  // Runs the strand until `done`.
  template <typename Done>
  void RunUntil(const Done& done) {
    auto work = asio::make_work_guard(io_);
    while (!done()) io_.run_one_for(std::chrono::milliseconds(20));
  }
  void RunUntilEnd() {
    RunUntil([this] { return sink_->ended; });
    EXPECT_EQ(serving_.num_active(), 0);
  }
  FakeFleet::Sent RunUntilSent(size_t index = 0) {
    RunUntil([&] { return fleet_.num_sent() > index; });
    return fleet_.WaitSent(index);
  }

  AdmissionLimits limits_;
  FakeFleet fleet_;
  Catalog catalog_;
  SeededRandom random_{1};
  asio::io_context io_;
  asio::any_io_executor strand_ = asio::make_strand(io_);
  Serving serving_;
  std::shared_ptr<Generation> generation_;
  std::shared_ptr<RecordingSink> sink_;
};

TEST_F(GenerationTest, TokensBecomeTextAndUsage) {
  GenerationRequest request = Request();
  request.sampling.temperature = 0;
  Start(std::move(request));
  const auto sent = RunUntilSent();
  EXPECT_EQ(sent.submission.prompt, Encode("Compute 1 + 2."));
  EXPECT_EQ(sent.submission.stop.max_tokens, 64);
  EXPECT_NE(sent.submission.sampling.seed, 0u) << "the master draws a seed";
  EXPECT_EQ(sent.submission.cost, static_cast<int64_t>(sent.submission.prompt.size()) + 64);
  const std::vector<TokenId> tokens = Encode("1 + 2 = 3, héllo 世界 🙂");
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool last = i + 1 == tokens.size();
    SubmissionOutput output = FakeFleet::Output(0, static_cast<int32_t>(i), {tokens[i]},
                                                last ? FinishReason::kStop : FinishReason::kNone);
    output.cached_tokens = i == 0 ? 4 : 0;
    sent.listener->OnOutput(std::move(output));
  }
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok()) << sink_->status;
  EXPECT_EQ(sink_->text[0], "1 + 2 = 3, héllo 世界 🙂");
  EXPECT_EQ(sink_->usage.completion_tokens, static_cast<int32_t>(tokens.size()));
  EXPECT_EQ(sink_->usage.prompt_tokens, static_cast<int32_t>(sent.submission.prompt.size()));
  EXPECT_EQ(sink_->usage.cached_tokens, 4);
  EXPECT_EQ(sink_->deltas.back().finish, FinishReason::kStop);
  EXPECT_EQ(fleet_.num_cancelled(), 0u);
}

TEST_F(GenerationTest, AStopStringAcrossTokensEndsTheChoiceAndCancelsOnTheWorker) {
  GenerationRequest request = Request();
  request.stop_strings = {"= 3"};
  Start(std::move(request));
  const auto sent = RunUntilSent();
  const std::vector<TokenId> tokens = Encode("1 + 2 = 3 and more");
  for (size_t i = 0; i < tokens.size(); ++i) {
    sent.listener->OnOutput(FakeFleet::Output(0, static_cast<int32_t>(i), {tokens[i]}));
  }
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok());
  EXPECT_EQ(sink_->text[0], "1 + 2 ");
  EXPECT_EQ(sink_->deltas.back().finish, FinishReason::kStop);
  EXPECT_LT(sink_->usage.completion_tokens, static_cast<int32_t>(tokens.size()));
  ASSERT_EQ(fleet_.num_cancelled(), 1u);
  EXPECT_EQ(fleet_.WaitCancelled(0).choices, std::vector<int32_t>{0});
}

TEST_F(GenerationTest, EveryChoiceEndsOnItsOwn) {
  GenerationRequest request = Request();
  request.n = 2;
  Start(std::move(request));
  const auto sent = RunUntilSent();
  ASSERT_EQ(sent.submission.choices.size(), 2u);
  const auto a = Encode("yes");
  const auto b = Encode("no");
  sent.listener->OnOutput(FakeFleet::Output(1, 0, b, FinishReason::kStop));
  RunUntil([this] { return !sink_->deltas.empty(); });
  EXPECT_FALSE(sink_->ended);
  sent.listener->OnOutput(FakeFleet::Output(0, 0, a, FinishReason::kLength));
  RunUntilEnd();
  EXPECT_EQ(sink_->text, (std::vector<std::string>{"yes", "no"}));
  EXPECT_EQ(sink_->usage.completion_tokens, static_cast<int32_t>(a.size() + b.size()));
}

TEST_F(GenerationTest, AGapOrARepeatIsAnError) {
  for (const int32_t first : {0, 2}) {
    Start(Request());
    const size_t index = fleet_.num_sent();
    const auto sent = RunUntilSent(index);
    sent.listener->OnOutput(FakeFleet::Output(0, 0, {10}));
    sent.listener->OnOutput(FakeFleet::Output(0, first, {11}));
    RunUntilEnd();
    EXPECT_EQ(sink_->status.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(fleet_.num_cancelled(), index + 1) << "the worker is told";
  }
}

TEST_F(GenerationTest, OutputOfAnotherAttemptOrChoiceIsNotSpliced) {
  Start(Request());
  const auto sent = RunUntilSent();
  SubmissionOutput stale = FakeFleet::Output(0, 0, {10});
  stale.attempt = 7;
  sent.listener->OnOutput(std::move(stale));
  sent.listener->OnOutput(FakeFleet::Output(3, 0, {10}));
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(sink_->deltas.empty());
}

TEST_F(GenerationTest, CancelReachesTheWorkerAndEndsOnce) {
  Start(Request());
  const auto sent = RunUntilSent();
  asio::post(strand_, [this] { generation_->Cancel(absl::CancelledError("gone")); });
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(fleet_.WaitCancelled(0).request_id, sent.submission.request_id);
  // What was under way arrives late and is dropped.
  sent.listener->OnOutput(FakeFleet::Output(0, 0, {10}, FinishReason::kStop));
  sent.listener->OnWorkerLost(1, {LossKind::kBroken, absl::UnavailableError("x")});
  while (io_.poll_one() > 0) {
  }
}

TEST_F(GenerationTest, ASlowSinkEndsItWithItsReason) {
  Start(Request());
  const auto sent = RunUntilSent();
  sink_->refuse = absl::CancelledError("the client reads too slowly");
  sent.listener->OnOutput(FakeFleet::Output(0, 0, {10}));
  RunUntilEnd();
  EXPECT_EQ(sink_->status.message(), "the client reads too slowly");
  EXPECT_EQ(fleet_.num_cancelled(), 1u);
}

TEST_F(GenerationTest, AStreamGoesOnWhereItsWorkerWasLost) {
  GenerationRequest request = Request();
  request.stop_strings = {"END"};
  Start(std::move(request));
  const auto first = RunUntilSent(0);
  const std::vector<TokenId> head = Encode("1 + 2 = 3 EN");
  first.listener->OnOutput(FakeFleet::Output(0, 0, head));
  first.listener->OnWorkerLost(1, Broken());
  const auto second = RunUntilSent(1);
  EXPECT_EQ(second.submission.attempt, 2u);
  EXPECT_EQ(second.submission.prompt, first.submission.prompt);
  EXPECT_EQ(second.submission.sampling.seed, first.submission.sampling.seed);
  EXPECT_EQ(second.submission.stop.max_tokens, first.submission.stop.max_tokens);
  ASSERT_EQ(second.submission.choices.size(), 1u);
  EXPECT_EQ(second.submission.choices[0].tokens, head);
  // What the first worker had still on its way counts no more.
  first.listener->OnOutput(
      FakeFleet::Output(0, static_cast<int32_t>(head.size()), Encode("nonsense")));
  // The stop string that was begun there ends here.
  SubmissionOutput rest =
      FakeFleet::Output(0, static_cast<int32_t>(head.size()), Encode("D and more"));
  rest.attempt = 2;
  rest.cached_tokens = 3;
  second.listener->OnOutput(rest);
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok()) << sink_->status;
  EXPECT_EQ(sink_->text[0], "1 + 2 = 3 ");
  EXPECT_EQ(sink_->usage.prompt_tokens, static_cast<int32_t>(first.submission.prompt.size()));
  EXPECT_EQ(sink_->usage.cached_tokens, 0);
  EXPECT_LE(sink_->usage.completion_tokens, static_cast<int32_t>(head.size()) + 2);
  const auto view = serving_.book().Find("t", generation_->id());
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->migrations, 1);
  EXPECT_EQ(view->state, RequestState::kOk);
}

TEST_F(GenerationTest, OnlyTheChoicesThatRunGoOnElsewhere) {
  fleet_.SetWorkers(
      {FakeFleet::ReadyWorker("a", *TinyModel()), FakeFleet::ReadyWorker("b", *TinyModel())});
  GenerationRequest request = Request();
  request.n = 3;
  request.logprobs = {.output = true, .prompt = 0};
  Start(std::move(request));
  const auto first = RunUntilSent(0);
  const auto output = [](int32_t choice, int32_t index, TokenId token, uint32_t attempt,
                         FinishReason finish = FinishReason::kNone) {
    SubmissionOutput output = FakeFleet::Output(choice, index, {token}, finish);
    output.attempt = attempt;
    output.logprobs.resize(1);
    return output;
  };
  SubmissionOutput prompt = output(0, 0, 300, 1);
  prompt.prompt_logprobs.resize(first.submission.prompt.size() - 1);
  first.listener->OnOutput(prompt);
  first.listener->OnOutput(output(1, 0, 301, 1, FinishReason::kStop));
  // A worker that stops gives its choices up one by one.
  for (const int32_t choice : {0, 2}) {
    SubmissionOutput given_up = FakeFleet::Output(choice, choice == 0 ? 1 : 0, {});
    given_up.finish = FinishReason::kCancelled;
    first.listener->OnOutput(given_up);
  }
  const auto second = RunUntilSent(1);
  EXPECT_NE(second.worker.id, first.worker.id);
  ASSERT_EQ(second.submission.choices.size(), 2u);
  EXPECT_EQ(second.submission.choices[0].index, 0);
  EXPECT_EQ(second.submission.choices[0].tokens, std::vector<TokenId>{300});
  EXPECT_EQ(second.submission.choices[1].index, 2);
  EXPECT_TRUE(second.submission.choices[1].tokens.empty());
  // The client has had the prompt's.
  EXPECT_TRUE(second.submission.logprobs.output);
  EXPECT_FALSE(second.submission.logprobs.prompt.has_value());
  second.listener->OnOutput(output(0, 1, 302, 2, FinishReason::kStop));
  second.listener->OnOutput(output(2, 0, 303, 2, FinishReason::kStop));
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok()) << sink_->status;
  EXPECT_EQ(fleet_.num_sent(), 2u);
  EXPECT_EQ(sink_->usage.completion_tokens, 4);
  int with_prompt = 0;
  for (const GenerationDelta& delta : sink_->deltas) with_prompt += !delta.prompt_logprobs.empty();
  EXPECT_EQ(with_prompt, 1);
}

class WithoutMigrationTest : public GenerationTest {
 protected:
  WithoutMigrationTest() : GenerationTest(/*migration=*/false) {}
};

TEST_F(WithoutMigrationTest, AStreamEndsWithItsWorker) {
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Broken());
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(FailureCode(sink_->status), "worker_lost");
  EXPECT_EQ(fleet_.num_sent(), 1u);
}

TEST_F(GenerationTest, ARequestThatCrashesTwoWorkersEndsAndIsRefused) {
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Crash());
  RunUntilSent(1).listener->OnWorkerLost(2, Crash());
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(FailureCode(sink_->status), "worker_lost");
  EXPECT_EQ(fleet_.num_sent(), 2u);

  Start(Request());
  RunUntilEnd();
  EXPECT_EQ(FailureCode(sink_->status), "request_crashes_workers");
  EXPECT_EQ(fleet_.num_sent(), 2u);
  GenerationRequest other = Request();
  other.prompt = TextPrompt{"Compute 1 + 3."};
  Start(std::move(other));
  RunUntilSent(2).listener->OnOutput(FakeFleet::Output(0, 0, {300}, FinishReason::kStop));
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok());
}

TEST_F(GenerationTest, LossesThatTellNothingDoNotEndARequestSoon) {
  Start(Request());
  for (uint32_t attempt = 1; attempt <= 17; ++attempt) {
    RunUntilSent(attempt - 1).listener->OnWorkerLost(attempt, Broken());
  }
  RunUntilEnd();
  EXPECT_EQ(FailureCode(sink_->status), "worker_lost");
  // A worker that leaves is no loss at all.
  GenerationRequest other = Request();
  other.prompt = TextPrompt{"Compute 1 + 3."};
  Start(std::move(other));
  for (uint32_t attempt = 1; attempt <= 40; ++attempt) {
    RunUntilSent(16 + attempt)
        .listener->OnWorkerLost(attempt, {LossKind::kLeft, absl::UnavailableError("left")});
  }
  SubmissionOutput last = FakeFleet::Output(0, 0, {300}, FinishReason::kStop);
  last.attempt = 41;
  RunUntilSent(57).listener->OnOutput(last);
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok()) << sink_->status;
}

// A request that a client comes back for, with `have` tokens of each choice.
GenerationRequest ComingBack(GenerationRequest request, std::vector<int32_t> have = {}) {
  request.resumption = {.context = "proof", .look = true, .attempt = 2, .have = std::move(have)};
  return request;
}

SubmissionOutput Attempt(uint32_t attempt, SubmissionOutput output) {
  output.attempt = attempt;
  return output;
}

TEST_F(GenerationTest, WhatAWorkerHandsOverGoesOn) {
  const std::vector<TokenId> tokens = Encode("one two three four");
  fleet_.SetClaimScript([&](SubmissionListener& listener) {
    // What the worker sends next may be here first.
    listener.OnOutput(Attempt(3, FakeFleet::Output(0, 2, {tokens[2]})));
    ClaimedWork work{.worker = {"w", "1"}, .attempt = 3};
    work.choices.push_back(FakeFleet::Output(0, 0, {tokens[0], tokens[1]}));
    work.choices[0].cached_tokens = 4;
    ClaimedWork older{.worker = {"x", "1"}, .attempt = 2};
    return ClaimOutcome{.found = {older, work}, .attempt = 3};
  });
  Start(ComingBack(Request(), {1}));
  RunUntil([&] { return sink_->deltas.size() == 3; });
  EXPECT_EQ(fleet_.WaitCancelled(0).request_id, fleet_.claims()[0].request_id);  // the older one
  EXPECT_EQ(fleet_.claims()[0].resume_context, "proof");
  EXPECT_EQ(sink_->deltas[0].tokens.size(), 1u) << "a delta ends where the client's tokens end";
  EXPECT_EQ(sink_->deltas[1].tokens.size(), 1u);
  EXPECT_EQ(sink_->deltas[1].attempt, 3u);
  EXPECT_EQ(fleet_.num_sent(), 0u);

  // It is as good as its own: the worker's loss makes it go on elsewhere.
  generation_->OnWorkerLost(3, Broken());
  const auto sent = RunUntilSent();
  EXPECT_EQ(sent.submission.attempt, 4u);
  EXPECT_EQ(sent.submission.choices[0].tokens.size(), 3u);
  EXPECT_EQ(sent.submission.resume_context, "proof");
  std::vector<TokenId> rest(tokens.begin() + 3, tokens.end());
  sent.listener->OnOutput(Attempt(4, FakeFleet::Output(0, 3, rest, FinishReason::kStop)));
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok());
  EXPECT_EQ(sink_->text[0], "one two three four");
  EXPECT_EQ(sink_->usage.completion_tokens, static_cast<int32_t>(tokens.size()));
  EXPECT_EQ(sink_->usage.cached_tokens, 4);
}

TEST_F(GenerationTest, WhatNobodyHasIsRunAgainUnderALaterAttempt) {
  fleet_.SetClaimScript([](SubmissionListener&) { return ClaimOutcome{.attempt = 5}; });
  GenerationRequest request = ComingBack(Request());
  const std::string id = request.id;
  Start(std::move(request));
  const auto first = RunUntilSent();
  EXPECT_EQ(first.submission.attempt, 6u);
  EXPECT_TRUE(first.submission.choices[0].tokens.empty());
  // And every master would take the same seed.
  EXPECT_EQ(first.submission.sampling.seed, serving_.resume_keys().SeedOf(id));
}

TEST_F(GenerationTest, AChoiceThatTheWorkerDoesNotKnowIsRunAgain) {
  fleet_.SetClaimScript([](SubmissionListener&) {
    ClaimedWork work{.worker = {"w", "1"}, .attempt = 3};
    work.choices.push_back(FakeFleet::Output(1, 0, {7, 8}));
    return ClaimOutcome{.found = {work}, .attempt = 3};
  });
  GenerationRequest request = ComingBack(Request());
  request.n = 2;
  Start(std::move(request));
  const auto sent = RunUntilSent();
  EXPECT_EQ(fleet_.num_cancelled(), 1u);
  EXPECT_EQ(sent.submission.attempt, 4u);
  ASSERT_EQ(sent.submission.choices.size(), 2u);
  EXPECT_TRUE(sent.submission.choices[0].tokens.empty());
  EXPECT_EQ(sent.submission.choices[1].tokens.size(), 2u);
}

TEST_F(GenerationTest, AnotherRequestUnderTheSameNameIsAnError) {
  fleet_.SetClaimScript([](SubmissionListener&) { return ClaimOutcome{.other_context = true}; });
  Start(ComingBack(Request()));
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(fleet_.num_sent(), 0u);
}

TEST_F(GenerationTest, ARequestThatAnotherMasterTakesEndsWithoutACancel) {
  Start(Request());
  const auto sent = RunUntilSent();
  SubmissionOutput farewell = FakeFleet::Output(0, 0, {}, FinishReason::kCancelled);
  farewell.taken_over = true;
  sent.listener->OnOutput(farewell);
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(fleet_.num_cancelled(), 0u);
  EXPECT_EQ(fleet_.num_sent(), 1u) << "it does not migrate";
}

TEST_F(GenerationTest, AClientThatComesBackHereGetsTheHeldRequest) {
  const std::vector<TokenId> tokens = Encode("one two three four");
  GenerationRequest request = Request();
  request.resumption = {.context = "proof", .hold = absl::Minutes(1)};
  GenerationRequest again = ComingBack(request, {1});
  Start(std::move(request));
  const auto sent = RunUntilSent();
  sent.listener->OnOutput(FakeFleet::Output(0, 0, {tokens[0]}));
  RunUntil([&] { return sink_->deltas.size() == 1; });
  const auto first = sink_;
  asio::post(strand_, [&, held = generation_] { held->Leave(absl::CancelledError("gone")); });
  RunUntil([&] { return first->ended; });
  EXPECT_EQ(serving_.num_active(), 1) << "it goes on";
  sent.listener->OnOutput(FakeFleet::Output(0, 1, {tokens[1]}));

  Start(std::move(again));
  RunUntil([&] { return sink_->deltas.size() == 2; });
  EXPECT_EQ(fleet_.num_cancelled(), 0u);
  EXPECT_TRUE(fleet_.claims().empty());
  // The worker's outputs still go to the first one.
  std::vector<TokenId> rest(tokens.begin() + 2, tokens.end());
  sent.listener->OnOutput(FakeFleet::Output(0, 2, rest, FinishReason::kStop));
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok()) << sink_->status;
  EXPECT_EQ(sink_->text[0], "one two three four");
  EXPECT_EQ(sink_->usage.completion_tokens, static_cast<int32_t>(tokens.size()));
  EXPECT_EQ(fleet_.num_sent(), 1u);
}

TEST_F(GenerationTest, AHeldRequestThatHasEndedIsToldWhole) {
  GenerationRequest request = Request();
  request.resumption = {.context = "proof", .hold = absl::Minutes(1)};
  GenerationRequest again = ComingBack(request);
  Start(std::move(request));
  const auto sent = RunUntilSent();
  asio::post(strand_, [&, held = generation_] { held->Leave(absl::CancelledError("gone")); });
  generation_ = nullptr;
  sent.listener->OnOutput(FakeFleet::Output(0, 0, Encode("done"), FinishReason::kLength));
  RunUntil([&] { return serving_.num_active() == 0; });
  Start(std::move(again));
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok());
  EXPECT_EQ(sink_->text[0], "done");
  EXPECT_EQ(sink_->deltas.back().finish, FinishReason::kLength);
}

TEST_F(GenerationTest, NothingIsHeldBeyondTheBudgetOrForNobody) {
  GenerationRequest request = Request();
  request.resumption = {.context = "proof", .hold = absl::Minutes(1)};
  request.n = 16;
  request.stop.max_tokens = 500;
  for (int i = 0; i < 3; ++i) {  // each may come to 36 KB
    request.id = serving_.NewId();
    Start(request);
    RunUntilSent(i);
    asio::post(strand_, [held = generation_] { held->Leave(absl::CancelledError("gone")); });
    RunUntil([&] { return sink_->ended; });
  }
  EXPECT_EQ(fleet_.num_cancelled(), 1u);
  EXPECT_EQ(serving_.num_active(), 2);
  serving_.CancelAll(absl::UnavailableError("the end"));
  RunUntil([&] { return serving_.num_active() == 0; });
}

TEST_F(GenerationTest, AFullWorkerIsPassedOver) {
  fleet_.SetWorkers(
      {FakeFleet::ReadyWorker("a", *TinyModel()), FakeFleet::ReadyWorker("b", *TinyModel())});
  Start(Request());
  const auto first = RunUntilSent(0);
  first.listener->OnRejected(1, absl::ResourceExhaustedError("inbox full"), absl::Seconds(5));
  const auto second = RunUntilSent(1);
  EXPECT_NE(second.worker.id, first.worker.id);
  EXPECT_EQ(second.submission.attempt, 2u);
}

TEST_F(GenerationTest, AnInvalidRequestIsNotTriedElsewhere) {
  Start(Request());
  RunUntilSent().listener->OnRejected(1, absl::InvalidArgumentError("bad grammar"),
                                      absl::ZeroDuration());
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(fleet_.num_sent(), 1u);
}

TEST_F(GenerationTest, ASubmitThatFailsIsTriedAgain) {
  fleet_.FailNextSubmit(absl::UnavailableError("just gone"));
  Start(Request());
  EXPECT_EQ(RunUntilSent().submission.attempt, 2u);
}

TEST_F(GenerationTest, WithoutWorkersItWaitsAndThenSaysWhy) {
  fleet_.SetWorkers({});
  GenerationRequest request = Request();
  request.timeout = absl::Milliseconds(30);
  Start(std::move(request));
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(sink_->status.message().find("no worker is connected"), absl::string_view::npos);
  EXPECT_TRUE(FailureRetryAfter(sink_->status).has_value());
}

TEST_F(GenerationTest, AWorkerThatComesLaterTakesWhatWaits) {
  fleet_.SetWorkers({});
  Start(Request());
  RunUntil([this] { return generation_ != nullptr && serving_.queue_length() == 1; });
  fleet_.SetWorkers({FakeFleet::ReadyWorker("late", *TinyModel())});
  EXPECT_EQ(RunUntilSent().worker.id, "late");
}

TEST_F(GenerationTest, WhatDoesNotFitTheContextIsRefusedBeforeAnyWorker) {
  GenerationRequest request = Request();
  request.stop.max_tokens = 1 << 20;
  Start(std::move(request));
  RunUntilEnd();
  EXPECT_EQ(FailureCode(sink_->status), "context_length_exceeded");
  request = Request();
  request.prompt = TokenPrompt{{1, 2, 4096}};
  Start(std::move(request));
  RunUntilEnd();
  EXPECT_EQ(FailureParam(sink_->status), "prompt");
  EXPECT_EQ(fleet_.num_sent(), 0u);
}

TEST_F(GenerationTest, StatisticsTellWhereTheTimeWent) {
  Start(Request());
  const auto sent = RunUntilSent();
  sent.listener->OnOutput(FakeFleet::Output(0, 0, Encode("yes"), FinishReason::kStop));
  RunUntilEnd();
  Start(Request());
  RunUntilSent(1).listener->OnOutput(FakeFleet::Output(0, 0, {}, FinishReason::kError));
  RunUntilEnd();
  const ModelStatistics statistics = serving_.statistics().Of("tiny");
  EXPECT_EQ(statistics.success.count, 1u);
  EXPECT_EQ(statistics.failure.count, 1u);
  EXPECT_GT(statistics.failure.ns, 0u);
  EXPECT_GT(statistics.prepare.ns, 0u);
  EXPECT_GT(statistics.queue.ns, 0u);
  EXPECT_GT(statistics.compute.ns, 0u);
  EXPECT_LE(statistics.prepare.ns + statistics.queue.ns + statistics.compute.ns,
            statistics.success.ns);
  EXPECT_EQ(serving_.statistics().Of("other").success.count, 0u);
}

TEST_F(GenerationTest, AWorkerThatGivesUpAtTheDeadlineIsTheDeadline) {
  GenerationRequest request = Request();
  request.timeout = absl::Milliseconds(50);
  Start(std::move(request));
  const auto sent = RunUntilSent();
  absl::SleepFor(absl::Milliseconds(48));
  SubmissionOutput output = FakeFleet::Output(0, 0, {}, FinishReason::kError);
  output.error = "the deadline passed";
  sent.listener->OnOutput(std::move(output));
  RunUntilEnd();
  EXPECT_TRUE(absl::IsDeadlineExceeded(sink_->status)) << sink_->status;
}

TEST_F(GenerationTest, ErrorsOfTheEngineReachTheClient) {
  Start(Request());
  SubmissionOutput output = FakeFleet::Output(0, 0, {}, FinishReason::kError);
  output.error = "the grammar allows no token";
  RunUntilSent().listener->OnOutput(std::move(output));
  RunUntilEnd();
  EXPECT_EQ(sink_->status.message(), "the grammar allows no token");
}

TEST_F(GenerationTest, AGrammarThatDoesNotCompileIsTheClientsFault) {
  GenerationRequest request = Request();
  request.grammar = GrammarSpec{GrammarKind::kJsonSchema, R"({"type":"colour"})"};
  Start(std::move(request));
  SubmissionOutput output = FakeFleet::Output(0, 0, {}, FinishReason::kError);
  output.error = "no such type\n 1 | colour";
  output.bad_request = true;
  RunUntilSent().listener->OnOutput(std::move(output));
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(sink_->status.message(), "no such type");
  EXPECT_EQ(FailureParam(sink_->status), "response_format");
}

}  // namespace
}  // namespace fathom::master
