#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "cli/chaos/cluster_view.h"
#include "cli/chaos/content.h"
#include "cli/chaos/fault.h"
#include "cli/chaos/injection.h"
#include "cli/chaos/question.h"
#include "cli/chaos/transcript.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

TEST(CompareTextTest, TellsWhatIsTwiceWhatIsMissingAndWhatIsWrong) {
  EXPECT_EQ(CompareText("abcdef", "abcdef"), TextErrors());
  EXPECT_EQ(CompareText("abcdef", "abccdef"), (TextErrors{.duplicated = 1}));
  EXPECT_EQ(CompareText("abcdef", "abcdecdef"), (TextErrors{.duplicated = 3}));
  EXPECT_EQ(CompareText("abcdef", "abef"), (TextErrors{.missing = 2}));
  EXPECT_EQ(CompareText("abcdef", "abcde"), (TextErrors{.missing = 1}));
  EXPECT_EQ(CompareText("abcdef", "abcdeff"), (TextErrors{.duplicated = 1}));
  EXPECT_EQ(CompareText("abcdef", "abdcef"), (TextErrors{.wrong = 2}));
  EXPECT_EQ(CompareText("abcdef", "abXYZef"), (TextErrors{.duplicated = 1, .wrong = 2}));
  EXPECT_EQ(CompareText("", "ab"), (TextErrors{.duplicated = 2}));
  EXPECT_EQ(CompareText("aaaa", "aaa"), (TextErrors{.missing = 1}));
}

Content Right() {
  Content content{.prompt_tokens = 3, .output_tokens = 4, .has_usage = true};
  content.choices[0] = {.text = "abcd", .logprobs = "l", .finish = "length"};
  return content;
}

TEST(CompareTest, AnAnswerIsHeldAgainstTheRightOneInEveryPart) {
  EXPECT_TRUE(Compare(Right(), Right(), true).good());
  Content got = Right();
  got.choices[0].finish = "stop";
  EXPECT_TRUE(Compare(Right(), got, true).wrong_end);
  got = Right();
  got.choices[0].logprobs = "m";
  EXPECT_TRUE(Compare(Right(), got, true).wrong_logprobs);
  got = Right();
  ++got.output_tokens;
  EXPECT_TRUE(Compare(Right(), got, true).wrong_usage);
  got = Right();
  got.has_usage = false;
  EXPECT_TRUE(Compare(Right(), got, true).wrong_usage);
  got = Right();
  got.choices[1].text = "x";
  EXPECT_EQ(Compare(Right(), got, true).text.duplicated, 1);
  got = Right();
  got.choices.clear();
  EXPECT_EQ(Compare(Right(), got, true).text.missing, 4);
  EXPECT_TRUE(Compare(Right(), got, true).wrong_end);
}

TEST(CompareTest, WhatDidNotEndIsJudgedByWhatItSaid) {
  Content got;
  got.choices[0].text = "ab";
  EXPECT_TRUE(Compare(Right(), got, false).good());
  got.choices[0].text = "aab";
  EXPECT_FALSE(Compare(Right(), got, false).good());
  got.choices[0].text = "abcdd";
  EXPECT_EQ(Compare(Right(), got, false).text.duplicated, 1);
  EXPECT_TRUE(Compare(Right(), Content(), false).good());
}

TEST(QuestionTest, SimulatedQuestionsAndAnswersAreFunctionsOfTheirNumber) {
  const SimulatedShape shape{.input_low = 5, .input_high = 9, .output_low = 70, .output_high = 80};
  const Question question = SimulatedQuestion(shape, 1, 2);
  EXPECT_EQ(SimulatedQuestion(shape, 1, 2).tokens, question.tokens);
  EXPECT_NE(SimulatedQuestion(shape, 1, 3).tokens, question.tokens);
  EXPECT_GE(question.tokens.size(), 5u);
  EXPECT_LE(question.tokens.size(), 9u);
  const Content answer = SimulatedAnswer(question);
  EXPECT_EQ(answer.choices.at(0).text.size(), static_cast<size_t>(question.max_tokens));
  // Neighbours differ, and the text repeats after 61.
  const std::string& text = answer.choices.at(0).text;
  for (size_t i = 1; i < text.size(); ++i) EXPECT_NE(text[i], text[i - 1]);
  EXPECT_EQ(text[0], text[61]);
}

TEST(QuestionTest, EveryKindIsAskedOverHttpAndGrpcAlike) {
  bool schema = false;
  for (const Question& question : RealQuestions()) {
    const HttpQuestion http = ToHttp(question, "m", true);
    const v1::GenerateRequest grpc = ToGrpc(question, "m");
    EXPECT_EQ(http.target, "/v1/chat/completions");
    EXPECT_THAT(http.body, HasSubstr(R"("stream":true)"));
    EXPECT_THAT(http.body, HasSubstr(absl::StrCat(R"("max_tokens":)", grpc.stop().max_tokens())));
    EXPECT_EQ(grpc.n(), question.n);
    EXPECT_EQ(grpc.sampling().has_seed(), question.temperature > 0);
    schema |= grpc.grammar().has_json_schema();
  }
  EXPECT_TRUE(schema);
}

// Reads pieces of one character each, as a simulated worker's stream has them.
Content Read(const std::string& text, InjectionKind kind) {
  Transcript transcript{Injector(kind, 0)};
  for (size_t i = 0; i < text.size(); ++i) {
    const bool last = i + 1 == text.size();
    const std::string chunk =
        absl::StrCat(R"({"id":"cmpl-7","choices":[{"index":0,"text":")", text.substr(i, 1),
                     R"(","finish_reason":)", last ? "\"length\"" : "null", "}]}");
    EXPECT_TRUE(transcript.OnOpenAi(chunk, static_cast<int64_t>(i) * 1'000'000).ok());
  }
  EXPECT_TRUE(transcript
                  .OnOpenAi(absl::StrCat(R"({"choices":[],"usage":{"prompt_tokens":3,)",
                                         R"("completion_tokens":)", text.size(), "}}"),
                            0)
                  .ok());
  transcript.OnDone();
  EXPECT_TRUE(transcript.CheckComplete(true).ok());
  EXPECT_EQ(transcript.injected(), kind != InjectionKind::kNone);
  EXPECT_EQ(transcript.ids(), std::vector<std::string>{"7"});
  EXPECT_EQ(transcript.broken_rule(), "");
  return transcript.content();
}

TEST(InjectionTest, ADuplicateAGapAndASwapAreCaught) {
  Content right{.prompt_tokens = 3, .output_tokens = 8, .has_usage = true};
  right.choices[0] = {.text = "abcdefgh", .finish = "length"};
  const auto judge = [&](InjectionKind kind) {
    return Compare(right, Read("abcdefgh", kind), true).text;
  };
  EXPECT_EQ(judge(InjectionKind::kNone), TextErrors());
  EXPECT_EQ(judge(InjectionKind::kDuplicate), (TextErrors{.duplicated = 1}));
  EXPECT_EQ(judge(InjectionKind::kGap), (TextErrors{.missing = 1}));
  EXPECT_EQ(judge(InjectionKind::kSwap), (TextErrors{.wrong = 2}));
}

TEST(InjectionTest, OneAnswerInTenIsTouched) {
  int touched = 0;
  for (uint64_t answer = 0; answer < 100; ++answer) {
    Injector injector(InjectionKind::kGap, answer);
    for (int i = 0; i < 10; ++i) injector.Push(0, "x", [](int32_t, std::string_view) {});
    touched += injector.touched() ? 1 : 0;
  }
  EXPECT_EQ(touched, 10);
  EXPECT_FALSE(ParseInjection("nonsense").ok());
}

TEST(TranscriptTest, KnowsTheRulesOfAHistory) {
  const auto reads = [](std::vector<std::string> events) {
    Transcript transcript{Injector(InjectionKind::kNone, 0)};
    for (const std::string& event : events) EXPECT_TRUE(transcript.OnOpenAi(event, 0).ok());
    return transcript.broken_rule();
  };
  const std::string text = R"({"choices":[{"index":0,"delta":{"content":"a"}}]})";
  const std::string end = R"({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]})";
  const std::string usage = R"({"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}})";
  EXPECT_EQ(reads({text, end, usage}), "");
  EXPECT_THAT(reads({text, end, text}), HasSubstr("after the end"));
  EXPECT_THAT(reads({text, end, end}), HasSubstr("ended twice"));
  EXPECT_THAT(reads({text, end, usage, usage}), HasSubstr("usage came twice"));
}

TEST(TranscriptTest, ErrorsAndHalfAnswersAreNoAnswers) {
  Transcript transcript{Injector(InjectionKind::kNone, 0)};
  EXPECT_TRUE(absl::IsAborted(transcript.OnOpenAi(R"({"error":{"message":"lost"}})", 0)));
  EXPECT_TRUE(absl::IsDataLoss(transcript.OnOpenAi("nonsense", 0)));
  EXPECT_FALSE(transcript.CheckComplete(false).ok());
  ASSERT_TRUE(
      transcript.OnOpenAi(R"({"choices":[{"index":0,"text":"a","finish_reason":"stop"}]})", 0)
          .ok());
  EXPECT_TRUE(transcript.CheckComplete(false).ok());
  EXPECT_FALSE(transcript.CheckComplete(true).ok());
}

TEST(TranscriptTest, RemembersItsLongestPauses) {
  Transcript transcript{Injector(InjectionKind::kNone, 0)};
  v1::GenerateResponse piece;
  piece.set_text_delta("x");
  int64_t now_ns = 0;
  for (int i = 0; i < 100; ++i) transcript.OnGrpc(piece, now_ns += (i == 50 ? 900 : 5) * 1'000'000);
  ASSERT_EQ(transcript.long_gaps().size(), Transcript::kLongGaps);
  EXPECT_EQ(transcript.long_gaps()[0].length_ns, 900'000'000);
  EXPECT_EQ(transcript.long_gaps()[0].from_ns, 250'000'000);
  EXPECT_NEAR(transcript.gaps().Quantile(0.5), 5, 0.5);
  EXPECT_NEAR(transcript.gaps().Quantile(1), 900, 90);
}

TEST(ClusterViewTest, MetricsAreAddedUpOverTheirLabels) {
  constexpr char kText[] =
      "# HELP a_total x\na_total{outcome=\"ok\"} 3\na_total{outcome=\"error\"} 2\n"
      "a_total_seconds 9\nb 1\n";
  EXPECT_EQ(SumOfMetric(kText, "a_total"), 5);
  EXPECT_EQ(SumOfMetric(kText, "b"), 1);
  EXPECT_EQ(SumOfMetric(kText, "c"), std::nullopt);
}

absl::Status History(const std::vector<std::string>& events, const std::string& state) {
  v1::ExplainRequestResponse history;
  history.mutable_status()->set_state(state);
  double at = 0;
  for (const std::string& what : events) {
    v1::RequestEvent& event = *history.add_events();
    event.set_what(what);
    event.set_at_seconds(at += 0.1);
  }
  return CheckHistory(history);
}

TEST(ClusterViewTest, ImpossibleHistoriesAreFound) {
  EXPECT_TRUE(
      History({"received", "submitted", "lost", "queued", "submitted", "ended"}, "ok").ok());
  EXPECT_TRUE(History({"received", "submitted", "not taken on", "submitted", "ended"}, "ok").ok());
  EXPECT_TRUE(History({"received", "submitted"}, "running").ok());
  EXPECT_TRUE(History({"received", "taken over", "lost", "submitted", "ended"}, "ok").ok());
  EXPECT_TRUE(History({"received", "taken over", "queued", "submitted", "ended"}, "ok").ok());
  EXPECT_FALSE(History({"received", "submitted", "ended", "ended"}, "ok").ok());
  EXPECT_FALSE(History({"received", "submitted", "submitted", "ended"}, "ok").ok());
  EXPECT_FALSE(History({"received", "lost", "ended"}, "ok").ok());
  EXPECT_FALSE(History({"received", "submitted"}, "ok").ok());
  EXPECT_FALSE(History({"received", "submitted", "ended"}, "running").ok());
}

TEST(FaultTest, KindsAreNamedInLists) {
  const auto kinds = ParseFaultKinds("kill,cut,kill");
  ASSERT_TRUE(kinds.ok());
  EXPECT_EQ(*kinds, (std::vector<FaultKind>{FaultKind::kKill, FaultKind::kCut, FaultKind::kKill}));
  EXPECT_TRUE(ParseFaultKinds("none")->empty());
  EXPECT_FALSE(ParseFaultKinds("kill,nothing").ok());
  for (const FaultKind kind : kFaultKinds) {
    EXPECT_EQ(ParseFaultKinds(NameOf(kind))->front(), kind);
    EXPECT_NE(HitsWorker(kind) || HitsMaster(kind), HitsDatabase(kind));
  }
}

}  // namespace
}  // namespace fathom::cli
