// How a generation takes over what another one has, and goes on without a client.

#include <gtest/gtest.h>

#include "master/serving/generation.h"
#include "master/serving/generation_testing.h"

namespace fathom::master {
namespace {

using GenerationTakeoverTest = GenerationTest;

// A request that a client comes back for, with `have` tokens of each choice.
GenerationRequest ComingBack(GenerationRequest request, std::vector<int32_t> have = {}) {
  request.resumption = {.context = "proof", .look = true, .attempt = 2, .have = std::move(have)};
  return request;
}

SubmissionOutput Attempt(uint32_t attempt, SubmissionOutput output) {
  output.attempt = attempt;
  return output;
}

TEST_F(GenerationTakeoverTest, WhatAWorkerHandsOverGoesOn) {
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
  EXPECT_EQ(fleet_.claims()[0].model, "tiny");
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

TEST_F(GenerationTakeoverTest, WhatNobodyHasIsRunAgainUnderALaterAttempt) {
  fleet_.SetClaimScript([](SubmissionListener&) { return ClaimOutcome{.attempt = 5}; });
  GenerationRequest request = ComingBack(Request());
  const std::string id = request.id;
  Start(std::move(request));
  const auto first = RunUntilSent();
  // Not the next one: it may be that of a run that its client and these workers know nothing of.
  EXPECT_GT(first.submission.attempt, 6u);
  EXPECT_LE(first.submission.attempt, 6u + 255);
  EXPECT_TRUE(first.submission.choices[0].tokens.empty());
  // And every master would take the same seed.
  EXPECT_EQ(first.submission.sampling.seed, serving_.resume_keys().SeedOf(id));
}

TEST_F(GenerationTakeoverTest, AChoiceThatTheWorkerDoesNotKnowIsRunAgain) {
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

TEST_F(GenerationTakeoverTest, AnotherRequestUnderTheSameNameIsAnError) {
  fleet_.SetClaimScript([](SubmissionListener&) { return ClaimOutcome{.other_context = true}; });
  Start(ComingBack(Request()));
  RunUntilEnd();
  EXPECT_EQ(sink_->status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(fleet_.num_sent(), 0u);
}

TEST_F(GenerationTakeoverTest, ARequestThatAnotherMasterTakesEndsWithoutACancel) {
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

TEST_F(GenerationTakeoverTest, AClientThatComesBackHereGetsTheHeldRequest) {
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

TEST_F(GenerationTakeoverTest, AHeldRequestThatAnotherMasterTookIsLookedForElsewhere) {
  GenerationRequest request = Request();
  request.resumption = {.context = "proof", .hold = absl::Minutes(1)};
  GenerationRequest again = ComingBack(request);
  Start(std::move(request));
  const auto sent = RunUntilSent();
  const auto first = sink_;
  asio::post(strand_, [&, held = generation_] { held->Leave(absl::CancelledError("gone")); });
  RunUntil([&] { return first->ended; });
  SubmissionOutput farewell = FakeFleet::Output(0, 0, {}, FinishReason::kCancelled);
  farewell.taken_over = true;
  sent.listener->OnOutput(farewell);
  RunUntil([&] { return serving_.num_active() == 0; });

  Start(std::move(again));
  RunUntil([&] { return !fleet_.claims().empty(); });
  const auto anew = RunUntilSent(1);
  SubmissionOutput all = FakeFleet::Output(0, 0, Encode("done"), FinishReason::kStop);
  all.attempt = anew.submission.attempt;
  anew.listener->OnOutput(all);
  RunUntilEnd();
  EXPECT_TRUE(sink_->status.ok()) << sink_->status;
}

TEST_F(GenerationTakeoverTest, WhoComesBackOftenLeavesNothingBehind) {
  const std::vector<TokenId> tokens = Encode("one two three four");
  GenerationRequest request = Request();
  request.resumption = {.context = "proof"};
  Start(request);
  const auto sent = RunUntilSent();
  sent.listener->OnOutput(FakeFleet::Output(0, 0, {tokens[0]}));
  RunUntil([&] { return sink_->deltas.size() == 1; });
  std::vector<std::weak_ptr<Generation>> all;
  for (int i = 0; i < 20; ++i) {
    const auto before = sink_;
    all.emplace_back(generation_);
    Start(ComingBack(request, {1}));
    RunUntil([&] { return before->ended && !sink_->deltas.empty(); });
  }
  sent.listener->OnOutput(FakeFleet::Output(0, 1, {tokens[1]}));
  RunUntil([&] { return sink_->deltas.size() == 2; });
  EXPECT_TRUE(std::all_of(all.begin(), all.end(), [](const auto& old) { return old.expired(); }));
  std::vector<TokenId> rest(tokens.begin() + 2, tokens.end());
  sent.listener->OnOutput(FakeFleet::Output(0, 2, rest, FinishReason::kStop));
  RunUntilEnd();
  EXPECT_EQ(sink_->text[0], "one two three four");
  EXPECT_EQ(fleet_.num_sent(), 1u);
}

// Else a client could pass all others with the token of something that has long ended.
TEST_F(GenerationTakeoverTest, WhatIsFoundNowhereWaitsInFairOrder) {
  fleet_.SetWorkers({});
  GenerationRequest fair = Request();
  fair.tenant = "fair";
  const std::string first = fair.id;
  Start(std::move(fair));
  RunUntil([&] { return serving_.queue_length() == 1; });
  const auto waiting = generation_;
  const auto waiting_sink = sink_;
  GenerationRequest again = ComingBack(Request());
  again.tenant = "other";
  Start(std::move(again));
  RunUntil([&] { return serving_.queue_length() == 2; });
  fleet_.SetWorkers({FakeFleet::ReadyWorker("w", *TinyModel())});
  const auto sent = RunUntilSent();
  EXPECT_EQ(sent.submission.request_id, first);
  serving_.CancelAll(absl::UnavailableError("the end"));
  RunUntil([&] { return serving_.num_active() == 0; });
}

TEST_F(GenerationTakeoverTest, AnAnswerIsNeverOfTwoModels) {
  GenerationRequest request = Request();
  request.resumption = {.context = "proof", .hold = absl::Minutes(1)};
  GenerationRequest again = ComingBack(request);
  auto other = std::make_shared<ServedModelInfo>(*TinyModel());
  other->name = "tiny@2";
  again.model = other;
  fleet_.SetWorkers(
      {FakeFleet::ReadyWorker("w", *TinyModel()), FakeFleet::ReadyWorker("v", *other)});
  Start(std::move(request));
  const auto sent = RunUntilSent();
  sent.listener->OnOutput(FakeFleet::Output(0, 0, {Encode("one")[0]}));
  RunUntil([&] { return sink_->deltas.size() == 1; });
  Start(std::move(again));
  const auto anew = RunUntilSent(1);
  EXPECT_EQ(anew.worker.id, "v");
  EXPECT_GT(anew.submission.attempt, sent.submission.attempt);
  EXPECT_TRUE(anew.submission.choices[0].tokens.empty());
  EXPECT_EQ(fleet_.WaitCancelled(0).request_id, sent.submission.request_id);
}

TEST_F(GenerationTakeoverTest, AHeldRequestThatHasEndedIsToldWhole) {
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

TEST_F(GenerationTakeoverTest, NothingIsHeldBeyondTheBudgetOrForNobody) {
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

}  // namespace
}  // namespace fathom::master
