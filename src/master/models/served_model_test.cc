#include "master/models/served_model.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/files.h"

namespace fathom::master {
namespace {

std::string TinyPath() {
  const char* root = std::getenv("FATHOM_SOURCE_DIR");
  return absl::StrCat(root == nullptr ? "." : root, "/models/tiny");
}

// A copy of models/tiny without its weights, to be broken.
class ServedModelTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/fathom-served-model-test-XXXXXX";
    directory_ = mkdtemp(pattern);
    for (const char* name : {"config.json", "generation_config.json", "tokenizer.json",
                             "tokenizer_config.json", "chat_template.jinja"}) {
      std::filesystem::copy_file(absl::StrCat(TinyPath(), "/", name), Path(name));
    }
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(Path(name), text).ok());
  }
  absl::StatusOr<ModelPtr> Load() {
    return LoadServedModel(directory_, "m", absl::FromUnixSeconds(5));
  }

  std::string directory_;
};

TEST_F(ServedModelTest, ReadsWhatServingNeeds) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->name, "m");
  EXPECT_EQ((*model)->context_length, 4096);
  EXPECT_EQ((*model)->vocab_size, 4096);
  EXPECT_EQ((*model)->defaults.temperature, 0.0f) << "do_sample: false";
  EXPECT_FALSE((*model)->defaults.top_p.has_value());
  EXPECT_NE((*model)->chat_template, nullptr);
  EXPECT_EQ((*model)->config_digest, Sha256Hex(*ReadFile(Path("config.json"), 1 << 20)));
  EXPECT_EQ((*model)->tokenizer_digest, Sha256Hex(*ReadFile(Path("tokenizer.json"), 1 << 24)));
}

TEST_F(ServedModelTest, DefaultsOutOfRangeAreLeftOut) {
  Write("generation_config.json",
        R"({"do_sample":true,"temperature":0.6,"top_k":20,"top_p":7,"min_p":"x"})");
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->defaults.temperature, 0.6f);
  EXPECT_EQ((*model)->defaults.top_k, 20);
  EXPECT_FALSE((*model)->defaults.top_p.has_value());
  EXPECT_FALSE((*model)->defaults.min_p.has_value());
}

TEST_F(ServedModelTest, TemplateAndGenerationConfigMayBeMissing) {
  std::filesystem::remove(Path("chat_template.jinja"));
  std::filesystem::remove(Path("generation_config.json"));
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->chat_template, nullptr);
  EXPECT_FALSE((*model)->defaults.temperature.has_value());
}

TEST_F(ServedModelTest, ErrorsNameTheFile) {
  const auto refusal = [this] { return std::string(Load().status().message()); };
  Write("generation_config.json", "{");
  EXPECT_TRUE(absl::StrContains(refusal(), "generation_config.json"));
  for (const char* config : {"", "[]", "{}", R"({"max_position_embeddings":"x","vocab_size":1})",
                             R"({"max_position_embeddings":-1,"vocab_size":1})"}) {
    Write("config.json", config);
    EXPECT_TRUE(absl::StrContains(refusal(), "config.json")) << config;
  }
  std::filesystem::remove(Path("config.json"));
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace fathom::master
