// The engine with its threads, on the fake model: lives and deaths of requests.

#include "worker/engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/status_macros.h"
#include "worker/engine/testing/collecting_sink.h"
#include "worker/engine/testing/fake_model.h"
#include "worker/engine/testing/oracle.h"
#include "worker/engine/validate.h"

namespace fathom::worker {
namespace {

// A device with a clock: every step works for 995.5 us of a millisecond.
class ClockedExecutor final : public Executor {
 public:
  explicit ClockedExecutor(std::unique_ptr<Executor> executor) : executor_(std::move(executor)) {}

  void LaunchForward(const ForwardInput& input) override { executor_->LaunchForward(input); }
  void LaunchSample(uint64_t step, const SampleInput& input) override {
    executor_->LaunchSample(step, input);
  }
  absl::StatusOr<const SampleOutput*> Await(uint64_t step) override {
    ASSIGN_OR_RETURN(const SampleOutput* output, executor_->Await(step));
    output_ = *output;
    output_.device_began_ns = static_cast<int64_t>(step) * 1'000'000;
    output_.device_ended_ns = output_.device_began_ns + 995'500;
    return &output_;
  }

 private:
  const std::unique_ptr<Executor> executor_;
  SampleOutput output_;
};

class EngineTest : public testing::Test {
 protected:
  void Start(FakeModelOptions model_options = {}, int32_t num_blocks = 200, bool clocked = false) {
    model_options_ = std::move(model_options);
    grammars_ = MakeFakeGrammars(model_options_.vocab_size, model_options_.eos[0]);
    auto model = std::make_unique<FakeModel>(model_options_);
    KvPlan plan{{num_blocks}, 8, model_options_.max_context / model_options_.block_tokens};
    ASSERT_TRUE(model->AllocateKv(plan).ok());
    EngineOptions options = OptionsFor(*model, plan);
    options.max_step_tokens = 32;
    options.max_logit_rows = 32;
    options.max_waiting = 16;
    kv_scope_ = options.kv_scope;
    std::unique_ptr<Executor> executor = MakeModelExecutor(std::move(model), 8).value();
    if (clocked) executor = std::make_unique<ClockedExecutor>(std::move(executor));
    auto engine = Engine::Create(options, std::move(executor), grammars_, &sink_, &clock_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(engine).value();
  }

  static EngineRequest Ask(const std::string& id, int32_t max_tokens = 20) {
    EngineRequest r;
    r.id = id;
    for (const char c : id) r.prompt.push_back(2 + static_cast<TokenId>(c) % 40);
    r.choices = {{0, {}}};
    r.sampling.temperature = 1;
    r.sampling.seed = 11;
    r.stop.max_tokens = max_tokens;
    r.stop.ignore_eos = true;
    return r;
  }
  std::vector<TokenId> Oracle(const EngineRequest& r) {
    return AskOracle(r, r.choices[0], model_options_, grammars_.get()).tokens;
  }

  FakeModelOptions model_options_;
  std::string kv_scope_;
  std::shared_ptr<const GrammarFactory> grammars_;
  CollectingSink sink_;
  FakeClock clock_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, AnswersManyThreadsAtOnce) {
  std::atomic<uint32_t> noise = 1;
  Start({.before_step = [&] {
    if (noise.fetch_add(1) % 3 == 0) std::this_thread::yield();
  }});
  constexpr int kThreads = 4;
  constexpr int kEach = 25;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < kEach; ++i) {
        const EngineRequest r = Ask("t" + std::to_string(t) + "-" + std::to_string(i), 30);
        while (!engine_->Submit(r).ok()) std::this_thread::yield();
        if (random() % 4 == 0) engine_->Cancel(r.id, 1, {});
        (void)engine_->Stats();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  sink_.WaitForEnds(kThreads * kEach);
  for (const auto& [key, g] : sink_.All()) {
    const std::vector<TokenId> want = Oracle(Ask(key.id, 30));
    ASSERT_LE(g.tokens.size(), want.size());
    EXPECT_TRUE(std::equal(g.tokens.begin(), g.tokens.end(), want.begin()));
    if (g.finish != FinishReason::kCancelled) {
      EXPECT_EQ(g.tokens.size(), want.size());
    }
  }
}

TEST_F(EngineTest, MeasuresHowLongTheDeviceStoodStillBetweenSteps) {
  Start({}, 200, /*clocked=*/true);
  ASSERT_TRUE(engine_->Submit(Ask("a")).ok());
  sink_.WaitForEnds(1);
  engine_->Stop();
  const std::string metrics = RenderMetrics();
  const auto value = [&](const std::string& series) {
    const size_t at = metrics.find("fathom_worker_device_idle_seconds_" + series);
    return at == std::string::npos ? -1 : std::stod(metrics.substr(metrics.find(' ', at)));
  };
  EXPECT_EQ(value("bucket{le=\"4e-06\"}"), 0) << metrics;
  EXPECT_GE(value("count"), 10) << metrics;
  EXPECT_EQ(value("bucket{le=\"5e-06\"}"), value("count")) << metrics;
}

TEST_F(EngineTest, StatsShowAnEngineAtRestAfterTheLastEnd) {
  Start();
  EXPECT_EQ(engine_->Stats().state, EngineState::kReady);
  EXPECT_EQ(engine_->Stats().free_blocks, 200);
  ASSERT_TRUE(engine_->Submit(Ask("a")).ok());
  sink_.WaitForEnds(1);
  engine_->Stop();
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.running + stats.waiting, 0);
  EXPECT_EQ(stats.free_blocks, stats.total_blocks);
  EXPECT_EQ(stats.output_tokens, 20);
  EXPECT_EQ(stats.prompt_tokens, 1);
  EXPECT_EQ(stats.step_deadline_ns, 0);
  EXPECT_GE(stats.steps, 20U);
}

TEST_F(EngineTest, ARunningStepPublishesItsDeadline) {
  std::binary_semaphore begun(0);
  std::binary_semaphore go(0);
  std::atomic<bool> first = true;
  Start({.before_step = [&] {
    if (!first.exchange(false)) return;
    begun.release();
    go.acquire();
  }});
  ASSERT_TRUE(engine_->Submit(Ask("a")).ok());
  begun.acquire();
  while (engine_->Stats().step_deadline_ns == 0) std::this_thread::yield();
  EXPECT_GE(engine_->Stats().step_deadline_ns, 2'000'000'000);
  go.release();
  sink_.WaitForEnds(1);
}

TEST_F(EngineTest, RefusesWhatIsNeverPossible) {
  Start({}, 64);
  const auto refused = [&](const std::function<void(EngineRequest&)>& change) {
    EngineRequest r = Ask("x");
    change(r);
    return engine_->Submit(r).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](auto& r) { r.id = ""; }));
  EXPECT_TRUE(refused([](auto& r) { r.prompt.clear(); }));
  EXPECT_TRUE(refused([](auto& r) { r.prompt = {48}; }));
  EXPECT_TRUE(refused([](auto& r) { r.prompt = {-1}; }));
  EXPECT_TRUE(refused([](auto& r) { r.prompt.assign(256, 3); }));
  EXPECT_TRUE(refused([](auto& r) { r.choices.clear(); }));
  EXPECT_TRUE(refused([](auto& r) { r.choices.resize(2); }));
  EXPECT_TRUE(refused([](auto& r) { r.choices.resize(kMaxChoices + 1); }));
  EXPECT_TRUE(refused([](auto& r) { r.choices[0].tokens.assign(21, 3); }));
  EXPECT_TRUE(refused([](auto& r) { r.choices[0].tokens = {99}; }));
  EXPECT_TRUE(refused([](auto& r) { r.stop.max_tokens = 0; }));
  EXPECT_TRUE(refused([](auto& r) { r.sampling.top_p = 0; }));
  EXPECT_TRUE(refused([](auto& r) { r.logprobs.output_top = 21; }));
  EXPECT_TRUE(refused([](auto& r) {
    r.grammar = GrammarSpec{GrammarKind::kRegex, std::string(300 * 1024, 'x')};
  }));
  // 64 blocks of 4 tokens: four choices of 100 tokens do not fit, two do.
  const auto choices = [](int32_t n) {
    std::vector<ChoiceStart> all;
    for (int32_t i = 0; i < n; ++i) all.push_back({i, {}});
    return all;
  };
  EXPECT_TRUE(refused([&](auto& r) {
    r.stop.max_tokens = 100;
    r.choices = choices(4);
  }));
  EngineRequest fits = Ask("fits", 100);
  fits.choices = choices(2);
  EXPECT_TRUE(engine_->Submit(fits).ok());
  sink_.WaitForEnds(2);
}

TEST_F(EngineTest, AFullInboxSaysTryLater) {
  std::counting_semaphore<1000000> go(0);
  Start({.before_step = [&] { go.acquire(); }});
  int accepted = 0;
  absl::Status status;
  while (true) {
    status = engine_->Submit(Ask("r" + std::to_string(accepted), 2));
    if (!status.ok()) break;
    ++accepted;
    ASSERT_LT(accepted, 100);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(accepted, 16);
  go.release(100000);
  sink_.WaitForEnds(accepted);
  EXPECT_TRUE(engine_->Submit(Ask("later", 1)).ok());
  sink_.WaitForEnds(accepted + 1);
}

TEST_F(EngineTest, AHigherAttemptSupersedesALowerOne) {
  std::counting_semaphore<1000000> go(0);
  Start({.before_step = [&] { go.acquire(); }});
  EngineRequest r = Ask("a", 50);
  r.attempt = 2;
  ASSERT_TRUE(engine_->Submit(r).ok());
  EXPECT_EQ(engine_->Submit(r).code(), absl::StatusCode::kAlreadyExists);
  r.attempt = 1;
  EXPECT_EQ(engine_->Submit(r).code(), absl::StatusCode::kAlreadyExists);
  go.release(3);
  sink_.WaitForTokens({"a", 2, 0}, 2);
  r.attempt = 3;
  ASSERT_TRUE(engine_->Submit(r).ok());
  go.release(100000);
  sink_.WaitForEnds(2);
  EXPECT_EQ(sink_.Of("a", 0, 2).finish, FinishReason::kCancelled);
  EXPECT_EQ(sink_.Of("a", 0, 3).finish, FinishReason::kLength);
  EXPECT_EQ(sink_.Of("a", 0, 3).tokens, Oracle(r));
}

TEST_F(EngineTest, CancelEndsChosenChoicesOfThatAttemptOnly) {
  std::counting_semaphore<1000000> go(0);
  Start({.before_step = [&] { go.acquire(); }});
  EngineRequest r = Ask("a", 30);
  r.attempt = 5;
  r.choices = {{0, {}}, {1, {}}, {2, {}}};
  ASSERT_TRUE(engine_->Submit(r).ok());
  engine_->Cancel("nobody", 9, {});
  engine_->Cancel("a", 4, {});
  engine_->Cancel("a", 5, {1});
  go.release(100000);
  sink_.WaitForEnds(3);
  EXPECT_EQ(sink_.Of("a", 0, 5).finish, FinishReason::kLength);
  EXPECT_EQ(sink_.Of("a", 1, 5).finish, FinishReason::kCancelled);
  EXPECT_EQ(sink_.Of("a", 2, 5).finish, FinishReason::kLength);
}

TEST_F(EngineTest, ADeadlineEndsWithAnError) {
  std::counting_semaphore<1000000> go(0);
  Start({.before_step = [&] { go.acquire(); }});
  EngineRequest r = Ask("a", 50);
  r.deadline_ns = 1'000'000;
  ASSERT_TRUE(engine_->Submit(r).ok());
  go.release(4);
  sink_.WaitForTokens({"a", 1, 0}, 3);
  clock_.Advance(absl::Milliseconds(2));
  go.release(100000);
  sink_.WaitForEnds(1);
  EXPECT_EQ(sink_.Of("a").finish, FinishReason::kError);
  EXPECT_NE(sink_.Of("a").error.find("deadline"), std::string::npos);
}

// A salt of 32 bytes is a master's secret; what else a master may send is made one here.
TEST_F(EngineTest, PrefixesAreSharedWithinASaltAlone) {
  Start();
  const std::string prompt(40, 'p');
  int ends = 0;
  const auto cached_with = [&](const std::string& salt) {
    EngineRequest r = Ask(prompt, 2);
    r.id = "r" + std::to_string(ends);
    r.cache_salt = salt;
    const int64_t before = engine_->Stats().cached_tokens;
    EXPECT_TRUE(engine_->Submit(r).ok());
    sink_.WaitForEnds(++ends);
    return engine_->Stats().cached_tokens - before;
  };
  for (const std::string& salt :
       {std::string(kCacheSaltBytes, 'a'), std::string(kCacheSaltBytes - 1, 'a') + 'b',
        std::string("short"), std::string(), std::string(200, 'l')}) {
    EXPECT_EQ(cached_with(salt), 0) << salt;
    EXPECT_GT(cached_with(salt), 0) << salt;
  }
}

// A master that knows the salt computes the same names.
TEST_F(EngineTest, TellsTheNamesOfItsBlocks) {
  Start({}, /*num_blocks=*/24);
  const int32_t block_tokens = model_options_.block_tokens;
  BlockNameSet told;
  const auto listen = [&] {
    const CacheChanges changes = engine_->TakeCacheChanges();
    for (const Hash128& name : changes.evicted) EXPECT_EQ(told.erase(name), 1u);
    for (const Hash128& name : changes.stored) EXPECT_TRUE(told.insert(name).second);
  };
  for (int i = 0; i < 20; ++i) {
    EngineRequest r = Ask(std::string(30, static_cast<char>('a' + i)), 20);
    r.cache_salt = std::string(kCacheSaltBytes, 's');
    ASSERT_TRUE(engine_->Submit(r).ok());
    sink_.WaitForEnds(i + 1);
    while (engine_->Stats().running > 0) std::this_thread::yield();
    listen();
    std::vector<TokenId> tokens = r.prompt;
    const std::vector<TokenId> output = Oracle(r);
    tokens.insert(tokens.end(), output.begin(), output.end() - 1);  // the last has no KV
    std::vector<Hash128> names;
    ExtendNames(MakePrefixScope(r.cache_salt, kv_scope_, kNoAdapter), tokens, block_tokens,
                static_cast<int32_t>(tokens.size()) / block_tokens, &names);
    for (const Hash128& name : names) EXPECT_TRUE(told.contains(name)) << i;
    EXPECT_LE(told.size(), 24u);
  }
}

TEST_F(EngineTest, BadLogitsEndTheirRequestAlone) {
  FakeModelOptions o;
  o.poison = 7;
  Start(o);
  EngineRequest bad = Ask("bad");
  bad.prompt = {3, 4, 7};
  EngineRequest good = Ask("good", 4);
  good.sampling.logit_bias = {{7, -100}};
  ASSERT_TRUE(engine_->Submit(bad).ok());
  ASSERT_TRUE(engine_->Submit(good).ok());
  sink_.WaitForEnds(2);
  EXPECT_EQ(sink_.Of("bad").finish, FinishReason::kError);
  EXPECT_NE(sink_.Of("bad").error.find("not finite"), std::string::npos);
  EXPECT_EQ(sink_.Of("good").finish, FinishReason::kLength);
  EXPECT_TRUE(engine_->Health().ok());
}

TEST_F(EngineTest, ALostDeviceIsForGood) {
  FakeModelOptions o;
  o.lose_device_at = 5;
  Start(o);
  ASSERT_TRUE(engine_->Submit(Ask("a", 50)).ok());
  sink_.WaitForEnds(1);  // returns when the engine is dead
  EXPECT_FALSE(sink_.dead().ok());
  EXPECT_EQ(sink_.Of("a").num_ends, 0);
  EXPECT_FALSE(engine_->Health().ok());
  EXPECT_EQ(engine_->Stats().state, EngineState::kDead);
  EXPECT_EQ(engine_->Submit(Ask("b")).code(), absl::StatusCode::kUnavailable);
  engine_->Stop();
}

TEST_F(EngineTest, ADeviceLostWhileIdleIsNotFoundByTheNextRequest) {
  FakeModelOptions o;
  o.lose_device_idle = true;
  Start(o);
  sink_.WaitForEnds(1);
  EXPECT_NE(sink_.dead().message().find("the device is gone"), std::string::npos);
  EXPECT_EQ(engine_->Submit(Ask("a")).code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, DrainRefusesTheNewAndFinishesTheOld) {
  Start();
  ASSERT_TRUE(engine_->Submit(Ask("a")).ok());
  engine_->Drain();
  EXPECT_EQ(engine_->Submit(Ask("b")).code(), absl::StatusCode::kUnavailable);
  sink_.WaitForEnds(1);
  EXPECT_EQ(sink_.Of("a").finish, FinishReason::kLength);
  while (engine_->Stats().state != EngineState::kDraining) std::this_thread::yield();
}

TEST_F(EngineTest, StopEndsWhatIsHere) {
  std::counting_semaphore<1000000> go(0);
  Start({.before_step = [&] { go.acquire(); }});
  for (int i = 0; i < 12; ++i) {
    ASSERT_TRUE(engine_->Submit(Ask("r" + std::to_string(i), 200)).ok());
  }
  go.release(20);
  sink_.WaitForTokens({"r0", 1, 0}, 5);
  go.release(100000);
  engine_->Stop();
  EXPECT_EQ(sink_.ends(), 12U);
  EXPECT_EQ(engine_->Submit(Ask("late")).code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, GrammarsHoldAndABadOneEndsItsRequest) {
  Start();
  EngineRequest r = Ask("g", 40);
  r.grammar = GrammarSpec{GrammarKind::kRegex, "xxxxxxxx"};
  EngineRequest bad = r;
  bad.id = "bad";
  bad.grammar->source = "bad";
  ASSERT_TRUE(engine_->Submit(r).ok());
  ASSERT_TRUE(engine_->Submit(bad).ok());
  sink_.WaitForEnds(2);
  EXPECT_EQ(sink_.Of("g").tokens, Oracle(r));
  EXPECT_EQ(sink_.Of("g").finish, FinishReason::kStop);
  EXPECT_EQ(sink_.Of("bad").finish, FinishReason::kError);
  EXPECT_EQ(sink_.Of("bad").error, "a bad grammar");
}

}  // namespace
}  // namespace fathom::worker
