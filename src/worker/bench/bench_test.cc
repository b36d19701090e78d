// The benchmark's arithmetic, flags and report; its runs are tested as a process (tests/system).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "worker/bench/bench_model.h"
#include "worker/bench/bench_options.h"
#include "worker/bench/bench_report.h"
#include "worker/bench/onednn_peer.h"
#include "worker/bench/work_count.h"
#include "worker/model/model_shapes.h"

namespace fathom::worker {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<BenchOptions> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "bench");
  return ParseBenchOptions(static_cast<int>(arguments.size()), arguments.data());
}

TEST(WorkCountTest, CountsWhatASmallModelHasToDo) {
  ModelConfig config;
  config.vocab_size = 100;
  config.hidden_size = 8;
  config.intermediate_size = 16;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.sliding_window = 10;
  config.layer_types = {LayerType::kFullAttention, LayerType::kSlidingAttention};
  const int64_t qkv = (16 + 2 * 8) * 8;
  const int64_t rest = 8 * 16 + 32 * 8 + 8 * 16;
  const int64_t head = 100 * 8;
  // Three sequences of 20 and 10 visible tokens, K and V of two heads of four.
  EXPECT_EQ(DecodeBytes(config, DType::kBF16, DType::kF32, 3, 19),
            2 * (head + 2 * (qkv + rest)) + 4 * (3 * (20 + 10) * 2 * 2 * 4));
  EXPECT_EQ(PrefillFlop(config, 7), 2 * (head + 2 * 7 * qkv + (7 + 1) * rest));
}

TEST(WorkCountTest, A05BModelReadsAGigabyteAStep) {
  const ModelConfig config = *ConfigOfShape("qwen2.5-0.5b");
  EXPECT_NEAR(static_cast<double>(DecodeBytes(config, DType::kBF16, DType::kBF16, 1, 1)), 0.988e9,
              0.001e9);
}

TEST(BenchOptionsTest, ReadsListsAndBounds) {
  const auto options =
      Parse({"--dummy-weights", "qwen2.5-0.5b", "--batch", "1,2", "--context", "7", "--prompt",
             "9,10,11", "--seconds", "0.5", "--limit", "30", "--threads", "1", "--dtype", "f32"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->shape, "qwen2.5-0.5b");
  EXPECT_EQ(options->batches, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(options->contexts, (std::vector<int32_t>{7}));
  EXPECT_EQ(options->prompts, (std::vector<int32_t>{9, 10, 11}));
  EXPECT_EQ(options->per_cell, absl::Milliseconds(500));
  EXPECT_EQ(options->limit, absl::Seconds(30));
  EXPECT_EQ(options->threads, 1);
}

TEST(BenchOptionsTest, RefusesWhatIsWrong) {
  const std::vector<std::vector<const char*>> wrong = {
      {},
      {"--model", "a", "--dummy-weights", "b"},
      {"--model", "a", "--batch", "0"},
      {"--model", "a", "--batch", "2000"},
      {"--model", "a", "--context", "x"},
      {"--model", "a", "--seconds", "0"},
      {"--model", "a", "--dtype", "int8"},
      {"--model", "a", "--nonsense"},
      {"--model", "a", "--prompt", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"}};
  for (const auto& arguments : wrong) {
    EXPECT_TRUE(absl::IsInvalidArgument(Parse(arguments).status()))
        << testing::PrintToString(arguments);
  }
  EXPECT_TRUE(absl::IsCancelled(Parse({"--help"}).status()));
}

TEST(BenchReportTest, TablesAndJsonSayTheSame) {
  BenchResult result;
  result.model = "m";
  result.weights = "random";
  result.dtype = "bf16";
  result.threads = 2;
  result.read_all_threads = 20e9;
  result.decode.push_back({4, 128, 10, 0.05, 1'000'000'000, 0.9});
  result.prefill.push_back({512, 3, 2.0, 400'000'000'000, 4e11, 0.5});
  result.left_out = 1;
  const std::string tables = BenchTables(result);
  EXPECT_THAT(tables, HasSubstr("50.00       80.0    1000.0    20.0  90.0 %"));
  EXPECT_THAT(tables, HasSubstr("2000.0      256.0      400.0     200.0   400.0  50.0 %"));
  EXPECT_THAT(tables, HasSubstr("1 cells left out"));

  const boost::json::object json = boost::json::parse(BenchJson(result)).as_object();
  const auto& decode = json.at("decode").at(0).as_object();
  EXPECT_DOUBLE_EQ(decode.at("tokens_per_second").as_double(), 80);
  EXPECT_DOUBLE_EQ(decode.at("bytes_per_second").as_double(), 20e9);
  EXPECT_DOUBLE_EQ(json.at("prefill").at(0).at("of_onednn").as_double(), 0.5);
  EXPECT_EQ(json.at("left_out").as_int64(), 1);
}

TEST(OneDnnPeerTest, MultipliesBothTypes) {
  const std::vector<MatrixShape> shapes = {{64, 96}, {128, 32}};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    OneDnnPeer peer(1, dtype);
    const auto rate = peer.FlopPerSecond(shapes, 33);
    ASSERT_TRUE(rate.ok()) << rate.status();
    EXPECT_GT(*rate, 0);
  }
}

TEST(BenchModelTest, RefusesWhatTheModelOrTheMemoryCannotHold) {
  ModelOptions options;
  options.path = std::string(std::getenv("FATHOM_SOURCE_DIR")) + "/models/tiny";
  const std::vector<DecodeCase> cases = {{2, 40}};
  const std::vector<int32_t> prompts = {50};
  const auto model = BenchModel::Create(options, cases, prompts, int64_t{1} << 30);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->Decode(cases[0]).ok());
  EXPECT_TRUE((*model)->Prefill(50).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(BenchModel::Create(options, cases, prompts, 1).status()));
  const std::vector<int32_t> too_long = {1 << 20};
  EXPECT_TRUE(absl::IsInvalidArgument(
      BenchModel::Create(options, cases, too_long, int64_t{1} << 30).status()));
}

}  // namespace
}  // namespace fathom::worker
