// A model from its folder to an engine: what is refused before the weights are read, what an engine
// of its own plan serves, and that nothing of it stays.

#include "worker/model_loading.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "common/strings.h"
#include "worker/command_line.h"
#include "worker/engine/testing/collecting_sink.h"

namespace fathom::worker {
namespace {

using ::testing::HasSubstr;

std::string Tiny() { return std::string(std::getenv("FATHOM_SOURCE_DIR")) + "/models/tiny"; }

config::Worker Config() {
  config::Config config;
  config.mutable_worker()->add_masters("127.0.0.1:1");
  EXPECT_TRUE(FillDefaults(config, "", "host").ok());
  config.mutable_worker()->set_threads(1);
  config.mutable_worker()->set_max_sequences(16);
  return config.worker();
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0;
  int64_t resident = 0;
  statm >> size >> resident;
  return resident * 4096;
}

class ModelLoadingTest : public testing::Test {
 protected:
  absl::StatusOr<Loaded> Load(LoadOrder order) {
    return loading_.Load(order, [this](int64_t done, int64_t total) {
      EXPECT_GE(done, done_);
      EXPECT_LT(done, total);
      done_ = done;
      total_ = total;
      return absl::OkStatus();
    });
  }

  CollectingSink sink_;
  ModelLoading loading_{Config(), {}, Random::Real(), Clock::Real(), &sink_};
  int64_t done_ = 0;
  int64_t total_ = 0;
};

TEST_F(ModelLoadingTest, AKvCacheThatWasAskedForIsExactlyThat) {
  const auto small = Load({.model = "m", .path = Tiny(), .kv_cache_bytes = 8 << 20});
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_GT(total_, 0);
  done_ = 0;
  const auto large = Load({.model = "m", .path = Tiny(), .kv_cache_bytes = 16 << 20});
  ASSERT_TRUE(large.ok()) << large.status();
  EXPECT_EQ(large->model.kv_tokens(), 2 * small->model.kv_tokens());
  EXPECT_EQ(large->memory_bytes - small->memory_bytes, 8 << 20);
  EXPECT_EQ(large->capacity, 2 * large->model.kv_tokens());
}

TEST_F(ModelLoadingTest, AnotherModelThanWasOrderedIsRefusedUnread) {
  const auto loaded = Load({.model = "m", .path = Tiny(), .kv_cache_bytes = 8 << 20});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::string config = loaded->model.config_digest();
  const std::string tokenizer = loaded->model.tokenizer_digest();
  const auto refused = [&](const std::string& config_digest, const std::string& tokenizer_digest) {
    ModelHost::Progress none = [](int64_t, int64_t) {
      ADD_FAILURE() << "weights were read";
      return absl::OkStatus();
    };
    const absl::Status status = loading_
                                    .Load({.model = "m",
                                           .path = Tiny(),
                                           .kv_cache_bytes = 8 << 20,
                                           .config_digest = config_digest,
                                           .tokenizer_digest = tokenizer_digest},
                                          none)
                                    .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    return std::string(Message(status));
  };
  EXPECT_THAT(refused("c0ffee", ""), AllOf(HasSubstr(config), HasSubstr("c0ffee")));
  EXPECT_THAT(refused(config, "beef"), AllOf(HasSubstr(tokenizer), HasSubstr("beef")));
  done_ = 0;
  EXPECT_TRUE(Load({.model = "m",
                    .path = Tiny(),
                    .kv_cache_bytes = 8 << 20,
                    .config_digest = config,
                    .tokenizer_digest = tokenizer})
                  .ok());
}

TEST_F(ModelLoadingTest, WhatIsNotThereOrDoesNotFitSaysSo) {
  EXPECT_EQ(Load({.model = "m", .path = "/nowhere"}).status().code(), absl::StatusCode::kNotFound);
  const absl::Status small = Load({.model = "m", .path = Tiny(), .kv_cache_bytes = 1000}).status();
  EXPECT_EQ(small.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ModelLoadingTest, AnEndedLoadEnds) {
  const auto ended = loading_.Load(
      {.model = "m", .path = Tiny(), .kv_cache_bytes = 8 << 20}, [](int64_t done, int64_t) {
        return done > 0 ? absl::CancelledError("ended") : absl::OkStatus();
      });
  EXPECT_EQ(ended.status().code(), absl::StatusCode::kCancelled);
}

TEST_F(ModelLoadingTest, TheFirstRequestLeavesNoTrace) {
  const auto loaded = Load({.model = "m", .path = Tiny(), .kv_cache_bytes = 8 << 20});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ServingEngine& engine = *loaded->engine;
  const int32_t free_blocks = engine.Stats().free_blocks;
  ASSERT_TRUE(engine.WarmUp().ok());
  const EngineStats stats = engine.Stats();
  EXPECT_EQ(stats.steps, 0u);
  EXPECT_EQ(stats.output_tokens, 0);
  EXPECT_EQ(stats.prompt_tokens, 0);
  EXPECT_EQ(stats.prefill_tokens_per_second, 0);
  EXPECT_EQ(stats.step_ns, 0);
  EXPECT_EQ(stats.free_blocks, free_blocks);
  EXPECT_TRUE(engine.TakeCacheChanges().empty());
  EngineRequest request;
  request.id = "r";
  request.prompt = {5, 6, 7};
  request.choices = {{0, {}}};
  request.stop.max_tokens = 3;
  request.stop.ignore_eos = true;
  ASSERT_TRUE(engine.Submit(request).ok());
  sink_.WaitForEnds(1);  // its own alone
  EXPECT_EQ(sink_.Of("r").tokens.size(), 3u);
}

// The heap of a process grows a little by itself: what counts is that it comes to rest.
TEST_F(ModelLoadingTest, NothingStaysOfAModelThatIsGone) {
  constexpr int64_t kKvBytes = 64 << 20;
  int64_t after_few = 0;
  for (int i = 0; i < 20; ++i) {
    done_ = 0;
    auto loaded = Load({.model = "m", .path = Tiny(), .kv_cache_bytes = kKvBytes});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    ASSERT_TRUE(loaded->engine->WarmUp().ok());
    loaded = absl::CancelledError();
    EXPECT_GT(loading_.FreeMemory(/*released=*/true), 0);
    if (i == 4) after_few = ResidentBytes();
  }
  const int64_t grown = ResidentBytes() - after_few;
  std::printf("15 loads more: %.1f MiB\n", static_cast<double>(grown) / (1 << 20));
  EXPECT_LT(grown, 16 << 20);  // less than one of them
}

}  // namespace
}  // namespace fathom::worker
