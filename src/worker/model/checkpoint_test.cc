#include "worker/model/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "common/strings.h"
#include "kernels/cpu/ref_backend.h"
#include "worker/model/weights.h"

namespace fathom::worker {
namespace {

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() { std::filesystem::create_directories(folder_); }
  ~CheckpointTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
  }
  // One F32 tensor [rows, 4] that counts up from `first`.
  void WriteShard(const std::string& name, const std::string& tensor, int rows, float first) {
    const std::string header = "{\"" + tensor + "\":{\"dtype\":\"F32\",\"shape\":[" +
                               std::to_string(rows) + ",4],\"data_offsets\":[0," +
                               std::to_string(rows * 16) + "]}}";
    const uint64_t length = header.size();
    std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
    file += header;
    for (int i = 0; i < rows * 4; ++i) {
      const float value = first + static_cast<float>(i);
      file.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    Write(name, file);
  }
  void ExpectRefused(const std::string& reason) {
    const auto checkpoint = Checkpoint::Open(folder_);
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_NE(Message(checkpoint.status()).find(reason), std::string::npos) << checkpoint.status();
  }

  const std::string folder_ = testing::TempDir() + "/fathom_checkpoint_" + std::to_string(getpid());
};

TEST_F(CheckpointTest, ShardsOfTheIndexAreOneCheckpoint) {
  WriteShard("one.safetensors", "a", 2, 0);
  WriteShard("two.safetensors", "b", 1, 100);
  Write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto b = checkpoint->Find("b");
  ASSERT_TRUE(b.ok());
  float first;
  std::memcpy(&first, b->data, sizeof(first));
  EXPECT_EQ(first, 100);
  EXPECT_NE(checkpoint->FileOf("b").find("two.safetensors"), std::string::npos);
  EXPECT_TRUE(absl::IsNotFound(checkpoint->Find("c").status()));
}

TEST_F(CheckpointTest, FolderWithoutWeightsNamesTheFileItWants) {
  ExpectRefused("model.safetensors");
}

TEST_F(CheckpointTest, ShardThatIsNotThereIsNamed) {
  Write("model.safetensors.index.json", R"({"weight_map":{"a":"gone.safetensors"}})");
  ExpectRefused("gone.safetensors");
}

TEST_F(CheckpointTest, TensorThatTheIndexPromisesMustBeThere) {
  WriteShard("one.safetensors", "a", 1, 0);
  Write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})");
  ExpectRefused("\"b\"");
}

TEST_F(CheckpointTest, TensorInTwoShardsIsRefused) {
  WriteShard("one.safetensors", "a", 1, 0);
  WriteShard("two.safetensors", "a", 1, 0);
  Write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  ExpectRefused("is also in");
}

TEST_F(CheckpointTest, IndexCannotLeaveItsFolder) {
  for (const char* name : {"../one.safetensors", "/etc/passwd", "", ".."}) {
    Write("model.safetensors.index.json", std::string(R"({"weight_map":{"a":")") + name + R"("}})");
    ExpectRefused("does not name a file of this folder");
  }
}

TEST_F(CheckpointTest, SlicesOfARankCutEitherDimension) {
  WriteShard("model.safetensors", "a", 4, 0);
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto backend = kernels::cpu::CreateRefBackend();
  const WeightReader reader(&*checkpoint, backend.get(), DType::kF32);
  const auto values = [&](const Slice& slice) {
    const auto table = reader.Table({"a", 4, 4, slice});
    EXPECT_TRUE(table.ok()) << table.status();
    const auto* data = table->data.as<float>();
    return std::vector<float>(data, data + table->data.bytes() / sizeof(float));
  };
  EXPECT_EQ(values({0, 1, 2}), (std::vector<float>{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(values({1, 1, 2}), (std::vector<float>{2, 3, 6, 7, 10, 11, 14, 15}));
  EXPECT_FALSE(reader.Table({"a", 4, 4, {0, 0, 3}}).ok()) << "4 rows do not split into 3";
}

TEST_F(CheckpointTest, ShapeThatTheConfigDoesNotWantNamesFileAndTensor) {
  WriteShard("model.safetensors", "a", 4, 0);
  const auto checkpoint = Checkpoint::Open(folder_);
  const auto backend = kernels::cpu::CreateRefBackend();
  const WeightReader reader(&*checkpoint, backend.get(), DType::kF32);
  const absl::Status status = reader.Table({"a", 5, 4, {}}).status();
  const std::string message(Message(status));
  EXPECT_NE(message.find("model.safetensors: tensor \"a\": shape is [4, 4]"), std::string::npos)
      << message;
}

}  // namespace
}  // namespace fathom::worker
