#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/random.h"
#include "common/strings.h"

namespace fathom {
namespace {

using testing::HasSubstr;

TEST(ConfigTest, ReadsNestedValuesListsAndMaps) {
  const auto config = ParseConfig(
      "worker:\n  masters: [a:1, b:2]\n  step_tokens: 512\n  prefix_cache: false\n"
      "  kv_cache_bytes: 8589934592\n  labels: {pool: nlp}\nlogging: {level: debug}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->worker().masters_size(), 2);
  EXPECT_EQ(config->worker().masters(1), "b:2");
  EXPECT_EQ(config->worker().step_tokens(), 512);
  EXPECT_EQ(config->worker().kv_cache_bytes(), int64_t{8589934592});
  EXPECT_TRUE(config->worker().has_prefix_cache());
  EXPECT_FALSE(config->worker().prefix_cache());
  EXPECT_EQ(config->worker().labels().at("pool"), "nlp");
  EXPECT_EQ(config->logging().level(), "debug");
}

TEST(ConfigTest, EmptyFileIsAllDefaults) {
  const auto config = ParseConfig("");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ByteSizeLong(), 0u);
}

TEST(ConfigTest, UnknownKeyIsAnErrorThatNamesLineAndKey) {
  const auto config = ParseConfig("master:\n  bind: 127.0.0.1\n  htpp_port: 1\n");
  ASSERT_FALSE(config.ok());
  EXPECT_THAT(std::string(Message(config.status())), HasSubstr("line 3"));
  EXPECT_THAT(std::string(Message(config.status())), HasSubstr("htpp_port"));
}

TEST(ConfigTest, WrongTypesAreErrors) {
  for (const char* bad :
       {"master: 3\n", "master: {http_port: many}\n", "master: {http_port: 99999999999}\n",
        "worker: {masters: a}\n", "worker: {labels: [a]}\n", "worker: {prefix_cache: maybe}\n",
        "master: {limits: {choices: [1]}}\n", "worker: {masters: [[a]]}\n", "- a\n", "a: [\n",
        "? [a]\n: b\n"}) {
    EXPECT_FALSE(ParseConfig(bad).ok()) << bad;
  }
}

TEST(ConfigTest, DumpReadsBackTheSame) {
  config::Config config;
  config.mutable_master()->set_http_port(0);
  config.mutable_master()->add_models()->set_name("a \"quoted\": name\n");
  config.mutable_master()->add_models()->set_pool("cv");
  config.mutable_master()->mutable_limits()->set_body_bytes(int64_t{1} << 40);
  config.mutable_worker()->add_masters("h:1");
  (*config.mutable_worker()->mutable_labels())["zone"] = "true";
  const auto again = ParseConfig(DumpConfig(config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->ShortDebugString(), config.ShortDebugString());
}

TEST(ConfigTest, MutilatedFilesNeverCrash) {
  const std::string good =
      "master:\n  bind: 127.0.0.1\n  limits: {choices: 3, body_bytes: 1}\nworker:\n"
      "  masters: [a:1]\n  labels: {a: b}\n  prefix_cache: true\n&x a: *x\n";
  SeededRandom random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string bad = good;
    for (uint64_t edits = 1 + random.Next() % 4; edits > 0; --edits) {
      bad[random.Next() % bad.size()] = static_cast<char>(random.Next());
      bad.insert(random.Next() % bad.size(), 1, "{}[]:&*-?!|>'\"%@\n "[random.Next() % 18]);
    }
    (void)ParseConfig(bad);
  }
  EXPECT_FALSE(ParseConfig(std::string(20000, '[')).ok());
}

}  // namespace
}  // namespace fathom
