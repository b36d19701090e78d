// The simulated device under the real engine: right tokens through chunked prefill, a shared prefix
// cache, preemption and several choices; and the time it claims to take.

#include "benchmarks/sim_worker/sim_device.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cli/load/simulated_text.h"
#include "text/text.h"
#include "worker/command_line.h"
#include "worker/engine/engine.h"
#include "worker/engine/testing/collecting_sink.h"
#include "worker/model_loading.h"

namespace fathom::worker {
namespace {

std::string Tiny() { return std::string(std::getenv("FATHOM_SOURCE_DIR")) + "/models/tiny"; }

class SimDeviceTest : public testing::Test {
 protected:
  void Start(const TimeModel& time, int32_t num_blocks) {
    const Device device = MakeSimDevice(time);
    auto model = device.load({.path = Tiny()});
    ASSERT_TRUE(model.ok()) << model.status();
    const KvPlan plan{{num_blocks}, 16, 256};
    ASSERT_TRUE((*model)->AllocateKv(plan).ok());
    EngineOptions options = OptionsFor(**model, plan);
    options.max_step_tokens = 64;
    options.max_logit_rows = 64;
    auto engine = Engine::Create(options, device.make_executor(*std::move(model), 16).value(),
                                 nullptr, &sink_, Clock::Real());
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  static EngineRequest Ask(const std::string& id, std::vector<TokenId> prompt, int32_t max_tokens) {
    EngineRequest r;
    r.id = id;
    r.prompt = std::move(prompt);
    r.choices = {{0, {}}};
    r.stop.max_tokens = max_tokens;
    return r;
  }

  std::string TextOf(const Gathered& gathered) {
    return tokenizer_->Decode(gathered.tokens, false).value();
  }

  const std::shared_ptr<const text::Tokenizer> tokenizer_ =
      text::Tokenizer::FromDirectory(Tiny()).value();
  CollectingSink sink_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(SimDeviceTest, AnswersWithThePromptsOwnTokensWhateverTheSchedulerDoes) {
  // Room for about a third of what is asked: sequences are preempted and computed again.
  Start({}, 60);
  std::mt19937 random(7);
  std::vector<TokenId> prefix(70);
  for (TokenId& token : prefix) token = static_cast<TokenId>(random() % 3000);
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 12; ++i) {
    std::vector<TokenId> prompt = prefix;
    for (int k = 0; k < 20 + 13 * i; ++k) prompt.push_back(static_cast<TokenId>(random() % 3000));
    requests.push_back(Ask("r" + std::to_string(i), std::move(prompt), 150));
    if (i % 4 == 0) requests.back().choices = {{0, {}}, {1, {}}};
    ASSERT_TRUE(engine_->Submit(requests.back()).ok());
  }
  sink_.WaitForEnds(15);
  ASSERT_TRUE(sink_.dead().ok()) << sink_.dead();
  for (const EngineRequest& r : requests) {
    for (const ChoiceStart& choice : r.choices) {
      const Gathered gathered = sink_.Of(r.id, choice.index);
      EXPECT_EQ(gathered.finish, FinishReason::kLength);
      cli::SimulatedTextCheck check(cli::HistoryOf(r.prompt));
      EXPECT_TRUE(check.Push(TextOf(gathered)).ok());
      EXPECT_EQ(check.length(), 150);
    }
  }
  EXPECT_GT(engine_->Stats().preemptions, 0);
  EXPECT_GT(engine_->Stats().cached_tokens, 0);
}

TEST_F(SimDeviceTest, GoesOnWhereAMigratedChoiceLeftOff) {
  Start({}, 60);
  const std::vector<TokenId> prompt{1, 2, 3, 4, 5};
  ASSERT_TRUE(engine_->Submit(Ask("whole", prompt, 40)).ok());
  sink_.WaitForEnds(1);
  const std::vector<TokenId> whole = sink_.Of("whole").tokens;
  EngineRequest rest = Ask("rest", prompt, 40);
  rest.choices = {{0, {whole.begin(), whole.begin() + 17}}};
  ASSERT_TRUE(engine_->Submit(rest).ok());
  sink_.WaitForEnds(2);
  EXPECT_EQ(sink_.Of("rest").tokens, std::vector<TokenId>(whole.begin() + 17, whole.end()));
}

TEST_F(SimDeviceTest, TakesTheTimeOfItsModel) {
  Start({.step_us = 10'000}, 60);
  const int64_t start_ns = Clock::Real()->MonotonicNs();
  ASSERT_TRUE(engine_->Submit(Ask("slow", {1, 2, 3}, 10)).ok());
  sink_.WaitForEnds(1);
  EXPECT_GE(Clock::Real()->MonotonicNs() - start_ns, 100'000'000);
}

// As a worker does that masters order to load one after the other.
TEST_F(SimDeviceTest, RunsSeveralModelsSideBySide) {
  config::Config config;
  config.mutable_worker()->add_masters("127.0.0.1:1");
  ASSERT_TRUE(FillDefaults(config, "", "host").ok());
  ModelLoading loading(config.worker(), MakeSimDevice({}), Random::Real(), Clock::Real(), &sink_);
  std::vector<Loaded> models;
  for (const char* name : {"a", "b"}) {
    auto loaded = loading.Load({.model = name, .path = Tiny(), .kv_cache_bytes = 64 << 20}, {});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->memory_bytes, 64 << 20);
    EXPECT_EQ(loaded->capacity, 2 * loaded->model.kv_tokens());
    ASSERT_TRUE(loaded->engine->WarmUp().ok());
    models.push_back(*std::move(loaded));
  }
  for (const Loaded& model : models) {
    ASSERT_TRUE(model.engine->Submit(Ask(model.model.name(), {1, 2, 3}, 30)).ok());
  }
  sink_.WaitForEnds(2);
  EXPECT_EQ(sink_.Of("a").tokens.size(), 30u);
  EXPECT_EQ(sink_.Of("a").tokens, sink_.Of("b").tokens);
  for (const Loaded& model : models) EXPECT_EQ(model.engine->Stats().output_tokens, 30);
  EXPECT_GT(loading.FreeMemory(/*released=*/false), 0);
}

TEST(TimeModelTest, AddsUpWhatAStepDoes) {
  const TimeModel model{.step_us = 100,
                        .prefill_token_us = 10,
                        .decode_sequence_us = 1,
                        .kv_bytes_per_token = 8,
                        .kv_bytes_per_us = 4};
  ForwardInput input;
  EXPECT_EQ(model.StepNs(input), 100'000);
  input.sequences = {{.query_len = 1, .context_len = 50}, {.query_len = 11, .context_len = 0}};
  EXPECT_EQ(model.StepNs(input), 100'000 + 1'000 + 100'000 + 1'000 + 100'000);
  EXPECT_EQ(TimeModel{}.StepNs(input), 0);
}

TEST(TimeModelTest, ReadsNamesAndChanges) {
  EXPECT_EQ(ParseTimeModel("free").value().step_us, 0);
  EXPECT_GT(ParseTimeModel("h200-8b").value().kv_bytes_per_token, 0);
  const TimeModel changed = ParseTimeModel("h200-8b,step_us=5,prefill_token_us=0.5").value();
  EXPECT_EQ(changed.step_us, 5);
  EXPECT_EQ(changed.prefill_token_us, 0.5);
  EXPECT_GT(changed.kv_bytes_per_token, 0);
  for (const char* bad : {"", "fast", "free,step=1", "free,step_us", "free,step_us=-1",
                          "free,step_us=nan", "free,kv_bytes_per_us=0", "step_us=1"}) {
    EXPECT_EQ(ParseTimeModel(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace fathom::worker
