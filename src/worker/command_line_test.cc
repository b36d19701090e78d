#include "worker/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "common/files.h"
#include "common/strings.h"

namespace fathom::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<CommandLine> Parse(std::vector<const char*> arguments,
                                  const std::string& master_node = "") {
  arguments.insert(arguments.begin(), "fathom-worker");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), master_node,
                          "host-7");
}

std::string WriteConfig(const std::string& yaml) {
  std::string path = testing::TempDir() + "/worker_command_line_test.yaml";
  EXPECT_TRUE(WriteFileAtomically(path, yaml).ok());
  return path;
}

TEST(CommandLineTest, FlagsAloneSuffice) {
  const auto line = Parse({"--master", "a:1", "--master", "b:2", "--model", "models/tiny/",
                           "--no-prefix-cache", "--exit-with-parent", "--metrics-port", "0"});
  ASSERT_TRUE(line.ok()) << line.status();
  const config::Worker& worker = line->config.worker();
  EXPECT_THAT(worker.masters(), ElementsAre("a:1", "b:2"));
  EXPECT_EQ(worker.model_name(), "tiny");
  EXPECT_EQ(worker.id(), "host-7");
  EXPECT_EQ(worker.device(), "cpu");
  EXPECT_EQ(worker.max_sequences(), 256);
  EXPECT_FALSE(worker.prefix_cache());
  EXPECT_TRUE(worker.exit_with_parent());
  EXPECT_EQ(worker.metrics_port(), 0);
}

TEST(CommandLineTest, FlagsOverrideTheFile) {
  const std::string path = WriteConfig(
      "worker:\n  masters: [c:3]\n  model_path: m\n  threads: 3\n  backend: ref\n"
      "  prefix_cache: false\nlogging:\n  level: warn\n");
  const auto line = Parse({"--config", path.c_str(), "--master", "a:1", "--threads", "2"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_THAT(line->config.worker().masters(), ElementsAre("a:1"));
  EXPECT_EQ(line->config.worker().threads(), 2);
  EXPECT_EQ(line->config.worker().backend(), "ref");
  EXPECT_FALSE(line->config.worker().prefix_cache());
  EXPECT_EQ(line->config.logging().level(), "warn");
}

TEST(CommandLineTest, MasterNodeIsOneMore) {
  const auto line = Parse({"--model", "m", "--master", "a:1"}, "seed:5000");
  ASSERT_TRUE(line.ok());
  EXPECT_THAT(line->config.worker().masters(), ElementsAre("a:1", "seed:5000"));
  EXPECT_TRUE(Parse({"--model", "m"}, "seed:5000").ok());
}

TEST(CommandLineTest, WhatCannotBeIsNamed) {
  const auto message = [](std::vector<const char*> arguments) {
    arguments.insert(arguments.end(), {"--model", "m", "--master", "a:1"});
    const absl::Status status = Parse(arguments).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    return std::string(Message(status));
  };
  EXPECT_THAT(message({"--device", "tpu"}), HasSubstr("worker.device"));
  EXPECT_THAT(message({"--device", "cuda:x"}), HasSubstr("worker.device"));
  EXPECT_THAT(message({"--backend", "slow"}), HasSubstr("worker.backend"));
  EXPECT_THAT(message({"--dtype", "f8"}), HasSubstr("worker.dtype"));
  EXPECT_THAT(message({"--max-sequences", "-1"}), HasSubstr("worker.max_sequences"));
  EXPECT_THAT(message({"--metrics-port", "70000"}), HasSubstr("worker.metrics_port"));
  EXPECT_THAT(message({"--log-format", "xml"}), HasSubstr("logging.format"));
}

TEST(CommandLineTest, AMasterIsNeededAndAModelForDummyWeights) {
  EXPECT_TRUE(Parse({"--master", "a:1"}).ok());  // it waits for a model
  EXPECT_THAT(
      std::string(Message(Parse({"--master", "a:1", "--dummy-weights", "llama-3.1-8b"}).status())),
      HasSubstr("--model"));
  EXPECT_THAT(std::string(Message(Parse({"--model", "m"}).status())), HasSubstr("MASTER_NODE"));
}

TEST(CommandLineTest, WrongFlagsAreUsageErrorsAndHelpIsNone) {
  EXPECT_TRUE(absl::IsInvalidArgument(Parse({"--nonsense"}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Parse({"--threads", "many"}).status()));
  EXPECT_TRUE(absl::IsCancelled(Parse({"--help"}).status()));
  EXPECT_TRUE(absl::IsCancelled(Parse({"--version"}).status()));
}

TEST(CommandLineTest, AMissingOrWrongFileIsAConfigurationError) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Parse({"--config", "/nowhere.yaml"}).status()));
  const std::string path = WriteConfig("worker:\n  colour: blue\n");
  const absl::Status status = Parse({"--config", path.c_str()}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(Message(status)), HasSubstr("colour"));
}

TEST(CommandLineTest, TheDumpedConfigurationReadsBack) {
  const auto line = Parse({"--model", "m", "--master", "a:1", "--dump-config"});
  ASSERT_TRUE(line.ok());
  EXPECT_TRUE(line->dump_config);
  const std::string path = WriteConfig(DumpConfig(line->config));
  const auto again = Parse({"--config", path.c_str()});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(DumpConfig(again->config), DumpConfig(line->config));
}

}  // namespace
}  // namespace fathom::worker
