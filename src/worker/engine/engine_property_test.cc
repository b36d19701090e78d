// Random work on a device with adversarial delays, against the oracle: whatever the scheduler does,
// every choice ends exactly once, gives the oracle's tokens, and leaves nothing behind.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "common/clock.h"
#include "worker/engine/engine_core.h"
#include "worker/engine/testing/collecting_sink.h"
#include "worker/engine/testing/fake_model.h"
#include "worker/engine/testing/oracle.h"
#include "worker/engine/testing/stepped_executor.h"
#include "worker/engine/validate.h"

namespace fathom::worker {
namespace {

struct World {
  const char* name;
  uint64_t seed = 1;
  int32_t num_blocks = 64;
  int32_t max_sequences = 6;
  int32_t max_step_tokens = 24;
  int32_t max_logit_rows = 8;
  int32_t window = 0;
  bool full_group = true;
  bool prefix_cache = true;
  double eagerness = 0.5;
  int num_requests = 120;
  double arrivals = 0.5;  // a step
  bool cancels = true;
  double prompt_scores = 0.15;  // how many ask for prompt logprobs
};

class EnginePropertyTest : public testing::TestWithParam<World> {
 protected:
  void SetUp() override {
    world_ = GetParam();
    random_.seed(world_.seed);
    model_options_.window = world_.window;
    model_options_.full_group = world_.full_group;
    model_options_.max_context = 96;
    grammars_ = MakeFakeGrammars(model_options_.vocab_size, model_options_.eos[0]);
    model_ = std::make_unique<FakeModel>(model_options_);
    KvPlan plan;
    plan.num_blocks.assign(model_->kv_spec().groups.size(), world_.num_blocks);
    plan.max_sequences = world_.max_sequences;
    plan.max_blocks_per_sequence = model_options_.max_context / model_options_.block_tokens;
    ASSERT_TRUE(model_->AllocateKv(plan).ok());
    options_ = OptionsFor(*model_, plan);
    options_.max_step_tokens = world_.max_step_tokens;
    options_.max_logit_rows = world_.max_logit_rows;
    options_.prefix_cache = world_.prefix_cache;
    options_.prefix_secret = "secret";
    ASSERT_TRUE(ValidateOptions(options_).ok());
    executor_ = std::make_unique<SteppedExecutor>(model_.get(), world_.max_sequences,
                                                  world_.eagerness, world_.seed);
    core_ = std::make_unique<EngineCore>(options_, executor_.get(), grammars_->mask_words(), &sink_,
                                         &clock_, &board_);
  }

  int32_t Draw(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  bool Chance(double p) { return std::bernoulli_distribution(p)(random_); }

  EngineRequest RandomRequest(int i) {
    EngineRequest r;
    r.id = "r" + std::to_string(i);
    // Prompts share beginnings, so that the cache has work.
    const int32_t stem = Draw(0, 3);
    const int32_t common = Draw(0, 30);
    for (int32_t k = 0; k < common; ++k) r.prompt.push_back((stem * 7 + k) % 40 + 2);
    for (int32_t k = Draw(1, 10); k > 0; --k) r.prompt.push_back(Draw(2, 47));
    const int32_t n = Chance(0.3) ? Draw(2, 4) : 1;
    for (int32_t c = 0; c < n; ++c) r.choices.push_back({c, {}});
    r.sampling.seed = random_();
    r.sampling.temperature = Chance(0.4) ? 0.0F : 1.0F;
    if (Chance(0.3)) r.sampling.top_k = Draw(1, 20);
    if (Chance(0.3)) r.sampling.top_p = 0.8F;
    if (Chance(0.3)) r.sampling.min_p = 0.05F;
    if (Chance(0.3)) r.sampling.presence_penalty = 0.5F;
    if (Chance(0.3)) r.sampling.frequency_penalty = 0.7F;
    if (Chance(0.3)) r.sampling.repetition_penalty = 1.2F;
    if (Chance(0.2)) r.sampling.logit_bias = {{5, 3.0F}, {6, -4.0F}};
    r.stop.max_tokens = Draw(1, 30);
    if (Chance(0.2)) r.stop.max_tokens = 90;  // the context ends it
    if (Chance(0.3)) r.stop.min_tokens = Draw(0, r.stop.max_tokens);
    r.stop.ignore_eos = Chance(0.3);
    if (Chance(0.3)) r.stop.stop_token_ids = {Draw(1, 47)};
    if (Chance(0.2)) r.logprobs = {.output = true, .output_top = 2, .prompt = {}};
    if (Chance(world_.prompt_scores)) r.logprobs.prompt = Draw(0, 2);
    if (Chance(0.2)) r.grammar = GrammarSpec{GrammarKind::kRegex, std::string(Draw(1, 12), 'x')};
    r.priority = Chance(0.2) ? 0 : 1;
    r.tenant_hash = Draw(0, 3);
    if (Chance(0.1)) r.cache_salt = "other";
    if (Chance(0.2)) {  // migrated in the middle
      for (ChoiceStart& c : r.choices) {
        const OracleAnswer whole = Oracle(r, {c.index, {}});
        const auto keep = Draw(0, static_cast<int32_t>(whole.tokens.size()));
        c.tokens.assign(whole.tokens.begin(), whole.tokens.begin() + keep);
      }
    }
    return r;
  }

  OracleAnswer Oracle(const EngineRequest& r, const ChoiceStart& c) {
    return AskOracle(r, c, model_options_, grammars_.get());
  }

  void Submit(EngineRequest r) {
    if (!ValidateRequest(r, options_, true).ok()) return;
    requests_.push_back(r);
    cancelled_.push_back(false);
    if (r.grammar.has_value()) compiling_.push_back(requests_.size() - 1);
    core_->Add(std::move(r));
  }

  void CompileSome() {
    while (!compiling_.empty() && Chance(0.3)) {
      const EngineRequest& r = requests_[compiling_.back()];
      compiling_.pop_back();
      core_->OnCompiled(r.id, r.attempt, grammars_->Compile(*r.grammar));
    }
  }

  void CancelSome() {
    if (!world_.cancels || requests_.empty() || !Chance(0.05)) return;
    const size_t i = Draw(0, static_cast<int32_t>(requests_.size()) - 1);
    std::vector<int32_t> choices;
    if (Chance(0.5)) choices = {requests_[i].choices.back().index};
    cancelled_[i] = true;
    core_->Cancel(requests_[i].id, requests_[i].attempt, choices);
  }

  void Check(const EngineRequest& r, bool cancelled) {
    for (const ChoiceStart& c : r.choices) {
      SCOPED_TRACE(r.id + " choice " + std::to_string(c.index));
      const Gathered got = sink_.Of(r.id, c.index);
      ASSERT_EQ(got.num_ends, 1);
      const OracleAnswer want = Oracle(r, c);
      std::vector<TokenId> all = c.tokens;
      EXPECT_EQ(got.first_index, static_cast<int32_t>(c.tokens.size()));
      all.insert(all.end(), got.tokens.begin(), got.tokens.end());
      if (got.finish == FinishReason::kCancelled) {
        EXPECT_TRUE(cancelled);
        ASSERT_LE(all.size(), want.tokens.size());
        EXPECT_TRUE(std::equal(all.begin(), all.end(), want.tokens.begin()));
        continue;
      }
      EXPECT_EQ(got.finish, want.finish) << got.error;
      EXPECT_EQ(all, want.tokens);
      ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
      for (size_t i = 0; i < want.logprobs.size(); ++i) {
        EXPECT_EQ(got.logprobs[i].chosen.token, want.logprobs[i].chosen.token);
        EXPECT_EQ(got.logprobs[i].chosen.logprob, want.logprobs[i].chosen.logprob);
      }
      const bool scored = r.logprobs.prompt.has_value() && c.tokens.empty() &&
                          c.index == r.choices[0].index && !got.tokens.empty();
      EXPECT_EQ(got.prompt_logprobs.size(), scored ? r.prompt.size() - 1 : 0);
      EXPECT_LT(got.cached_tokens, static_cast<int32_t>(r.prompt.size() + c.tokens.size()));
    }
  }

  World world_;
  std::mt19937_64 random_;
  FakeModelOptions model_options_;
  std::shared_ptr<const GrammarFactory> grammars_;
  std::unique_ptr<FakeModel> model_;
  EngineOptions options_;
  std::unique_ptr<SteppedExecutor> executor_;
  CollectingSink sink_;
  FakeClock clock_;
  StatsBoard board_;
  std::unique_ptr<EngineCore> core_;

  std::vector<EngineRequest> requests_;
  std::vector<bool> cancelled_;
  std::vector<size_t> compiling_;
};

TEST_P(EnginePropertyTest, EveryChoiceEndsOnceWithTheOraclesTokens) {
  int sent = 0;
  int steps = 0;
  constexpr int kManySteps = 200000;  // far more than the work needs: nobody starves
  while (steps < kManySteps) {
    ++steps;
    while (sent < world_.num_requests && Chance(world_.arrivals)) Submit(RandomRequest(sent++));
    CompileSome();
    CancelSome();
    const absl::StatusOr<bool> progressed = core_->Step();
    ASSERT_TRUE(progressed.ok()) << progressed.status();
    core_->CheckIntegrity();
    if (!*progressed && sent == world_.num_requests && compiling_.empty()) break;
  }
  EXPECT_LT(steps, kManySteps);
  EXPECT_EQ(core_->num_requests(), 0U);
  core_->Publish(EngineState::kReady);
  const EngineStats stats = board_.Read();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.free_blocks, stats.total_blocks);
  ASSERT_GT(requests_.size(), static_cast<size_t>(world_.num_requests) / 3);
  for (size_t i = 0; i < requests_.size(); ++i) Check(requests_[i], cancelled_[i]);
  RecordProperty("preemptions", static_cast<int>(stats.preemptions));
  if (std::string(world_.name).find("tiny") != std::string::npos) {
    EXPECT_GT(stats.preemptions, 0);
  }
  EXPECT_EQ(stats.cached_tokens > 0, world_.prefix_cache);
  EXPECT_EQ(executor_->max_in_flight(), 2U);  // one step ahead, never more
}

INSTANTIATE_TEST_SUITE_P(
    Worlds, EnginePropertyTest,
    testing::Values(
        World{.name = "plenty", .seed = 1, .num_blocks = 300, .max_sequences = 8},
        World{.name = "tiny_pool", .seed = 2, .num_blocks = 26, .max_sequences = 8},
        World{.name = "tiny_pool_lazy", .seed = 3, .num_blocks = 25, .eagerness = 0},
        World{.name = "tiny_pool_eager", .seed = 4, .num_blocks = 25, .eagerness = 0.98},
        World{.name = "tiny_pool_no_cache", .seed = 5, .num_blocks = 26, .prefix_cache = false},
        World{.name = "tiny_chunks",
              .seed = 6,
              .num_blocks = 30,
              .max_step_tokens = 8,
              .max_logit_rows = 6},
        World{.name = "one_slot",
              .seed = 7,
              .max_sequences = 1,
              .max_step_tokens = 5,
              .max_logit_rows = 1},
        World{.name = "sliding", .seed = 8, .num_blocks = 60, .window = 9},
        World{.name = "sliding_tiny", .seed = 9, .num_blocks = 26, .window = 9, .eagerness = 0},
        World{.name = "sliding_only",
              .seed = 10,
              .num_blocks = 40,
              .window = 13,
              .full_group = false},
        World{.name = "burst_tiny",
              .seed = 11,
              .num_blocks = 28,
              .max_sequences = 12,
              .max_logit_rows = 12,
              .arrivals = 0.97},
        World{.name = "scores_tiny",
              .seed = 13,
              .num_blocks = 25,
              .max_step_tokens = 9,
              .max_logit_rows = 7,
              .arrivals = 0.9,
              .prompt_scores = 0.9},
        World{.name = "calm", .seed = 12, .num_blocks = 80, .arrivals = 0.1, .cancels = false}),
    [](const auto& info) { return std::string(info.param.name); });

// Breadth: many other seeds on the hardest worlds.
std::vector<World> Sweep() {
  std::vector<World> worlds;
  for (uint64_t seed = 100; seed < 140; ++seed) {
    World w{.name = "sweep", .seed = seed};
    w.num_blocks = 24 + static_cast<int32_t>(seed % 9);
    w.max_sequences = 1 + static_cast<int32_t>(seed % 7);
    w.max_step_tokens = 7 + static_cast<int32_t>(seed * 5 % 40);
    w.max_logit_rows = 7 + static_cast<int32_t>(seed % 3);
    w.window = seed % 3 == 0 ? 1 + static_cast<int32_t>(seed % 17) : 0;
    w.eagerness = static_cast<double>(seed % 5) / 5;
    w.num_requests = 40;
    worlds.push_back(w);
  }
  return worlds;
}
INSTANTIATE_TEST_SUITE_P(Seeds, EnginePropertyTest, testing::ValuesIn(Sweep()),
                         [](const auto& info) { return "seed" + std::to_string(info.param.seed); });

}  // namespace
}  // namespace fathom::worker
