// What is asked and when: arrivals, records, prompts, their form on the wire.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "cli/load/arrivals.h"
#include "cli/load/records.h"
#include "cli/load/requests.h"
#include "cli/load/workload.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

std::vector<double> Gaps(double rate, double burstiness, uint64_t seed, int count) {
  Arrivals arrivals(rate, burstiness, seed);
  std::vector<double> gaps;
  double last = absl::ToDoubleSeconds(arrivals.Next());
  EXPECT_EQ(last, 0);
  for (int i = 0; i < count; ++i) {
    const double next = absl::ToDoubleSeconds(arrivals.Next());
    gaps.push_back(next - last);
    last = next;
  }
  return gaps;
}

// Standard deviation over mean: 1 / sqrt(shape) for a gamma distribution.
std::pair<double, double> MeanAndVariation(const std::vector<double>& values) {
  double sum = 0;
  double squares = 0;
  for (const double v : values) {
    sum += v;
    squares += v * v;
  }
  const auto n = static_cast<double>(values.size());
  const double mean = sum / n;
  return {mean, std::sqrt(squares / n - mean * mean) / mean};
}

TEST(ArrivalsTest, HaveTheRateAndTheBurstinessAskedFor) {
  for (const double burstiness : {0.25, 1.0, 16.0}) {
    const auto [mean, variation] = MeanAndVariation(Gaps(50, burstiness, 3, 40'000));
    EXPECT_NEAR(mean, 0.02, 0.001) << burstiness;
    EXPECT_NEAR(variation, 1 / std::sqrt(burstiness), 0.05 / std::sqrt(burstiness)) << burstiness;
  }
}

TEST(ArrivalsTest, FollowTheSeed) {
  EXPECT_EQ(Gaps(10, 1, 5, 20), Gaps(10, 1, 5, 20));
  EXPECT_NE(Gaps(10, 1, 5, 20), Gaps(10, 1, 6, 20));
}

TEST(ArrivalsTest, ComeAllAtOnceAtInfiniteRate) {
  Arrivals arrivals(std::numeric_limits<double>::infinity(), 1, 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(arrivals.Next(), absl::ZeroDuration());
}

TEST(RecordsTest, ReadsATraceInTimeOrderFromZero) {
  const auto trace = ParseTrace(
      R"({"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [1, 2]})"
      "\n\r\n"
      R"({"timestamp": 1000.5, "input_length": 6, "output_length": 0, "more": null})");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->size(), 2);
  EXPECT_EQ((*trace)[0].at_ms, 0);
  EXPECT_EQ((*trace)[0].output_len, 1);  // nothing can be asked for less
  EXPECT_EQ((*trace)[1].at_ms, 1999.5);
  EXPECT_EQ((*trace)[1].hash_ids, (std::vector<int64_t>{1, 2}));
}

TEST(RecordsTest, NamesTheLineOfWhatIsWrong) {
  const std::string good = R"({"timestamp": 1, "input_length": 1, "output_length": 1})";
  for (const char* bad :
       {"[]", "{", "{}", R"({"timestamp": "1", "input_length": 1, "output_length": 1})",
        R"({"timestamp": -1, "input_length": 1, "output_length": 1})",
        R"({"timestamp": 1, "input_length": 1e12, "output_length": 1})",
        R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": ["a"]})"}) {
    const auto trace = ParseTrace(good + "\n" + bad + "\n");
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr("line 2")) << bad;
  }
  EXPECT_FALSE(ParseTrace("\n\n").ok());
}

TEST(RecordsTest, ReadsPromptsAndChats) {
  const auto entries =
      ParseDataset(R"({"prompt": "a \"b\"", "max_tokens": 9})"
                   "\n"
                   R"({"messages": [{"role": "user", "content": "hi"}], "id": 1})");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ((*entries)[0].prompt, "a \"b\"");
  EXPECT_EQ((*entries)[0].output_len, 9);
  EXPECT_EQ((*entries)[1].messages_json, R"([{"role":"user","content":"hi"}])");
  EXPECT_EQ((*entries)[1].output_len, 0);
  for (const char* bad : {"{}", R"({"prompt": ""})", R"({"messages": []})", R"({"prompt": 1})"}) {
    EXPECT_FALSE(ParseDataset(bad).ok()) << bad;
  }
}

TEST(WorkloadTest, ReadsLengths) {
  const LengthRange one = ParseLengthRange("12").value();
  EXPECT_EQ(std::pair(one.low, one.high), std::pair(12, 12));
  const LengthRange two = ParseLengthRange("3:9").value();
  EXPECT_EQ(std::pair(two.low, two.high), std::pair(3, 9));
  for (const char* bad : {"", "0", "-1", "9:3", "1:2:3", "x", "1:", "99999999999"}) {
    EXPECT_FALSE(ParseLengthRange(bad).ok()) << bad;
  }
}

TokenPrompt Tokens(const Workload& workload, uint64_t index) {
  return std::get<TokenPrompt>(workload.Make(index).prompt);
}

TEST(WorkloadTest, IsAFunctionOfSeedAndIndex) {
  const WorkloadOptions options{.input = {10, 20}, .output = {1, 5}, .seed = 4};
  const Workload workload(options);
  std::vector<int32_t> lengths;
  for (uint64_t i = 0; i < 200; ++i) {
    EXPECT_EQ(Tokens(workload, i), Tokens(Workload(options), i));
    lengths.push_back(static_cast<int32_t>(Tokens(workload, i).size()));
    EXPECT_THAT(workload.Make(i).output_len, testing::AllOf(testing::Ge(1), testing::Le(5)));
  }
  EXPECT_EQ(*std::min_element(lengths.begin(), lengths.end()), 10);
  EXPECT_EQ(*std::max_element(lengths.begin(), lengths.end()), 20);
  EXPECT_NE(Tokens(workload, 0), Tokens(workload, 1));
  EXPECT_NE(Tokens(workload, 0), Tokens(Workload({.input = {10, 20}, .seed = 5}), 0));
}

TEST(WorkloadTest, PromptsShareAsManyPrefixesAsAskedFor) {
  const Workload workload({.input = {8, 8}, .prefix_len = 32, .num_prefixes = 3});
  std::set<TokenPrompt> prefixes;
  for (uint64_t i = 0; i < 50; ++i) {
    const TokenPrompt tokens = Tokens(workload, i);
    EXPECT_EQ(tokens.size(), 40);
    prefixes.insert({tokens.begin(), tokens.begin() + 32});
  }
  EXPECT_EQ(prefixes.size(), 3);
}

TEST(WorkloadTest, TracePromptsShareTheBlocksTheirHashIdsName) {
  const Workload workload(
      {.trace = {{0, 1200, 3, {7, 8, 9}}, {1, 1100, 4, {7, 8, 5}}, {2, 600, 1}}});
  const TokenPrompt a = Tokens(workload, 0);
  const TokenPrompt b = Tokens(workload, 1);
  EXPECT_EQ(a.size(), 1200);
  EXPECT_EQ(b.size(), 1100);
  EXPECT_EQ(Tokens(workload, 2).size(), 600);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 1024, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 1024, a.begin() + 1100, b.begin() + 1024));
  EXPECT_EQ(workload.Make(1).output_len, 4);
  EXPECT_EQ(Tokens(workload, 3), a);  // again from the beginning
}

TEST(RequestsTest, TakeTheFormOfTheirProtocol) {
  const RequestOptions options{.model = "m\"x", .ignore_eos = true};
  const LoadItem tokens{.prompt = TokenPrompt{1, 2}, .output_len = 7};
  const OpenAiRequest completion = ToOpenAi(tokens, options, true);
  EXPECT_EQ(completion.target, "/v1/completions");
  EXPECT_EQ(
      boost::json::parse(completion.body),
      boost::json::parse(R"({"model": "m\"x", "prompt": [1, 2], "stream": true, "max_tokens": 7,
              "stream_options": {"include_usage": true}, "temperature": 0, "ignore_eos": true})"));

  const LoadItem text{.prompt = TextPrompt{"a\nb"}};
  const OpenAiRequest chat = ToOpenAi(text, {.model = "m"}, true);
  EXPECT_EQ(chat.target, "/v1/chat/completions");
  EXPECT_EQ(boost::json::parse(chat.body).at("messages"),
            boost::json::parse(R"([{"role": "user", "content": "a\nb"}])"));
  EXPECT_FALSE(boost::json::parse(chat.body).as_object().contains("max_tokens"));
  EXPECT_EQ(ToOpenAi(text, {.model = "m"}, false).target, "/v1/completions");
  EXPECT_EQ(ToOpenAi({.prompt = ChatPrompt{"[]"}}, options, false).target, "/v1/chat/completions");

  const v1::GenerateRequest grpc = ToGrpc(tokens, options);
  EXPECT_EQ(grpc.tokens().ids_size(), 2);
  EXPECT_EQ(grpc.stop().max_tokens(), 7);
  EXPECT_TRUE(grpc.stop().ignore_eos());
  EXPECT_EQ(ToGrpc(text, options).text(), "a\nb");
  EXPECT_EQ(ToGrpc({.prompt = ChatPrompt{"[1]"}}, options).chat().messages_json(), "[1]");
}

}  // namespace
}  // namespace fathom::cli
