// What came back, as it is counted: percentiles, streams, answers, totals, the report.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <vector>

#include "cli/load/openai_stream.h"
#include "cli/load/report.h"
#include "cli/load/samples.h"
#include "cli/load/tally.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMs = 1'000'000;

TEST(SamplesTest, InterpolatesAsNumpyDoes) {
  const std::vector<float> values{1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(Percentile(values, 0), 1);
  EXPECT_DOUBLE_EQ(Percentile(values, 0.5), 3);
  EXPECT_DOUBLE_EQ(Percentile(values, 0.9), 6.8);
  EXPECT_DOUBLE_EQ(Percentile(values, 1), 8);
  EXPECT_EQ(Percentile({}, 0.5), 0);
  EXPECT_EQ(Percentile(std::vector<float>{5}, 0.99), 5);
}

TEST(SamplesTest, SummarizesWhateverTheOrder) {
  std::vector<float> values;
  for (int i = 100; i >= 0; --i) values.push_back(static_cast<float>(i));
  const Summary s = Summarize(values);
  EXPECT_EQ(s.count, 101);
  EXPECT_DOUBLE_EQ(s.mean, 50);
  EXPECT_DOUBLE_EQ(s.p50, 50);
  EXPECT_DOUBLE_EQ(s.p90, 90);
  EXPECT_DOUBLE_EQ(s.p95, 95);
  EXPECT_DOUBLE_EQ(s.p99, 99);
  EXPECT_DOUBLE_EQ(s.max, 100);
  EXPECT_EQ(Summarize({}).count, 0);
}

Answer MakeAnswer(int64_t due_ms, int64_t first_ms, int64_t end_ms, int64_t tokens) {
  AnswerMeter meter(due_ms * kMs, std::nullopt);
  meter.OnSent(due_ms * kMs + kMs);
  meter.OnPiece(first_ms * kMs, "a");
  meter.OnPiece(end_ms * kMs, "b");
  meter.OnUsage(10, tokens);
  return meter.Finish(absl::OkStatus(), end_ms * kMs);
}

TEST(AnswerTest, CountsFromWhenTheRequestWasDue) {
  const Answer answer = MakeAnswer(100, 150, 250, 5);
  EXPECT_DOUBLE_EQ(answer.ttft_ms(), 50);
  EXPECT_DOUBLE_EQ(answer.e2e_ms(), 150);
  EXPECT_DOUBLE_EQ(answer.tpot_ms().value(), 25);
  EXPECT_EQ(answer.gaps_ms, std::vector<float>{100});
  EXPECT_EQ(MakeAnswer(0, 1, 2, 1).tpot_ms(), std::nullopt);
}

TEST(AnswerTest, WithoutOutputIsAnErrorAndWithoutUsageCountsItsPieces) {
  EXPECT_FALSE(AnswerMeter(0, std::nullopt).Finish(absl::OkStatus(), kMs).status.ok());
  AnswerMeter meter(0, std::nullopt);
  meter.OnPiece(1, "x");
  EXPECT_EQ(meter.Finish(absl::OkStatus(), 2).output_tokens, 1);
}

TEST(AnswerTest, ChecksTheTextOfSimulatedWorkers) {
  const uint64_t history = 99;
  std::string text;
  for (int i = 0; i < 4; ++i) text += kSimulatedAlphabet[SimulatedLetter(history, i)];
  const auto finish = [&](std::string_view got, int64_t counted) {
    AnswerMeter meter(0, SimulatedTextCheck(history));
    meter.OnPiece(1, got);
    meter.OnUsage(3, counted);
    return meter.Finish(absl::OkStatus(), 2).status.code();
  };
  EXPECT_EQ(finish(text, 4), absl::StatusCode::kOk);
  EXPECT_EQ(finish(text, 5), absl::StatusCode::kDataLoss);
  EXPECT_EQ(finish(text.substr(1), 3), absl::StatusCode::kDataLoss);
}

Answer ReadStream(const std::vector<std::string>& pieces) {
  AnswerMeter meter(0, std::nullopt);
  OpenAiStream stream(meter);
  int64_t now = 0;
  absl::Status status;
  for (const std::string& piece : pieces) {
    status = stream.Push(piece, now += kMs);
    if (!status.ok()) break;
  }
  if (status.ok()) status = stream.Finish();
  return meter.Finish(status, now);
}

TEST(OpenAiStreamTest, CountsWhatHasOutput) {
  const Answer answer = ReadStream(
      {"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
       "data: {\"choices\":[{\"delta\":{\"content\":\"He\"}}],\"usage\":null}\n\n",
       "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"llo\"}}]}\n\ndata: {\"choi",
       "ces\":[{\"text\":\"!\"}]}\n\n: ping\n\n",
       "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
       "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n",
       "data: [DONE]\n\n"});
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.pieces, 3);
  EXPECT_EQ(answer.first_ns, 2 * kMs);
  EXPECT_EQ(answer.gaps_ms, (std::vector<float>{1, 1}));
  EXPECT_EQ(answer.prompt_tokens, 3);
  EXPECT_EQ(answer.output_tokens, 4);
}

TEST(OpenAiStreamTest, TellsBrokenStreams) {
  const std::string chunk = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
  EXPECT_EQ(ReadStream({chunk}).status.code(), absl::StatusCode::kUnavailable);
  const Answer failed = ReadStream({chunk, "data: {\"error\":{\"message\":\"worker lost\"}}\n\n"});
  EXPECT_EQ(failed.status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(failed.status.message()), HasSubstr("worker lost"));
  for (const char* bad : {"data: {\n\n", "data: 7\n\n"}) {
    EXPECT_EQ(ReadStream({bad}).status.code(), absl::StatusCode::kInternal) << bad;
  }
}

TEST(OpenAiStreamTest, ReadsWholeAnswersAlike) {
  AnswerMeter meter(0, std::nullopt);
  const std::string body =
      R"({"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})";
  ASSERT_TRUE(ReadChunk(body, kMs, meter).ok());
  const Answer answer = meter.Finish(absl::OkStatus(), kMs);
  EXPECT_EQ(answer.pieces, 1);
  EXPECT_EQ(answer.output_tokens, 2);
}

TEST(GoodputTest, ReadsItsLimits) {
  const Goodput goodput = ParseGoodput("ttft:200,e2e:5000.5").value();
  EXPECT_EQ(goodput.ttft_ms, 200);
  EXPECT_EQ(goodput.itl_ms, std::nullopt);
  EXPECT_EQ(goodput.e2e_ms, 5000.5);
  for (const char* bad : {"", "ttft", "ttft:0", "ttft:x", "tpot:3", "ttft:1,ttft:2", "itl:-1"}) {
    EXPECT_EQ(ParseGoodput(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(GoodputTest, WantsAllLimitsKept) {
  const Answer answer = MakeAnswer(0, 50, 150, 5);  // TTFT 50, 25 a token, E2E 150
  EXPECT_TRUE(ParseGoodput("ttft:50,itl:25,e2e:150")->Kept(answer));
  EXPECT_FALSE(ParseGoodput("ttft:49,itl:25,e2e:150")->Kept(answer));
  EXPECT_FALSE(ParseGoodput("ttft:50,itl:24,e2e:150")->Kept(answer));
  EXPECT_FALSE(ParseGoodput("ttft:50,itl:25,e2e:149")->Kept(answer));
  EXPECT_TRUE(Goodput().Kept(answer));
}

LoadOutcome SomeOutcome() {
  Tally tally(ParseGoodput("ttft:60").value());
  tally.Add(MakeAnswer(0, 50, 150, 5));
  tally.Add(MakeAnswer(0, 70, 250, 5));
  AnswerMeter refused(0, std::nullopt);
  for (int i = 0; i < 2; ++i) {
    tally.Add(AnswerMeter(0, std::nullopt)
                  .Finish(absl::ResourceExhaustedError("busy " + std::to_string(i)), kMs));
  }
  return {.tally = std::move(tally), .took = absl::Milliseconds(500), .peak_concurrent = 3};
}

TEST(ReportTest, CountsAddUp) {
  const LoadOutcome outcome = SomeOutcome();
  const Tally& tally = outcome.tally;
  EXPECT_EQ(tally.ok(), 2);
  EXPECT_EQ(tally.failed(), 2);
  EXPECT_EQ(tally.good(), 1);
  EXPECT_EQ(tally.output_tokens(), 10);
  EXPECT_EQ(tally.first_error().message(), "busy 0");
  const auto json = boost::json::parse(LoadJson(outcome, R"({"seed":1})"));
  EXPECT_EQ(json.at("requests").at("ok").to_number<int>(), 2);
  EXPECT_EQ(json.at("requests").at("errors").at("RESOURCE_EXHAUSTED").at("count").to_number<int>(),
            2);
  EXPECT_EQ(json.at("request_throughput").to_number<double>(), 4);
  EXPECT_EQ(json.at("output_throughput").to_number<double>(), 20);
  EXPECT_EQ(json.at("request_goodput").to_number<double>(), 2);
  EXPECT_EQ(json.at("ttft_ms").at("mean").to_number<double>(), 60);
  EXPECT_EQ(json.at("itl_ms").at("count").to_number<int>(), 2);
  EXPECT_EQ(json.at("peak_concurrent").to_number<int>(), 3);
  EXPECT_EQ(json.at("setup").at("seed").to_number<int>(), 1);
}

TEST(ReportTest, SaysItInATable) {
  const std::string table = LoadTable(SomeOutcome());
  EXPECT_THAT(table, HasSubstr("2 ok, 2 failed"));
  EXPECT_THAT(table, HasSubstr("2 x RESOURCE_EXHAUSTED: busy 0"));
  EXPECT_THAT(table, HasSubstr("1 of 4 within the limits"));
  EXPECT_THAT(table, HasSubstr("TTFT"));
  EXPECT_THAT(LoadProgressLine({.done = 3, .failed = 1, .since_start = absl::Seconds(2)}, 9),
              HasSubstr("3/9 done"));
}

}  // namespace
}  // namespace fathom::cli
