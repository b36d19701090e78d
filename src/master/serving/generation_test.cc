#include "master/serving/generation.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "master/serving/failure.h"
#include "master/serving/generation_testing.h"

namespace fathom::master {
namespace {

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

// It was beside the cause, several times, and got past the place each time.
TEST_F(GenerationTest, ACrashThatARequestHasGotPastCountsLittle) {
  Start(Request());
  RunUntilSent(0).listener->OnWorkerLost(1, Crash());
  for (uint32_t attempt = 2; attempt <= 4; ++attempt) {
    const auto sent = RunUntilSent(attempt - 1);
    const auto first = static_cast<int32_t>(8 * (attempt - 2));
    SubmissionOutput output = FakeFleet::Output(0, first, std::vector<TokenId>(8, 300));
    output.attempt = attempt;
    sent.listener->OnOutput(std::move(output));
    EXPECT_FALSE(sink_->ended);
    sent.listener->OnWorkerLost(attempt, Crash());
  }
  RunUntilEnd();
  EXPECT_EQ(FailureCode(sink_->status), "worker_lost") << "but not for ever";
  EXPECT_EQ(sink_->usage.completion_tokens, 24);
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
  EXPECT_NE(sink_->status.message().find("no worker that may run the model is connected"),
            absl::string_view::npos);
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
