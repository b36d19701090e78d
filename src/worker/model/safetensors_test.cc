#include "worker/model/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <random>
#include <string>

#include "common/strings.h"

namespace fathom::worker {
namespace {

using testing::TempDir;

class SafetensorsTest : public testing::Test {
 protected:
  ~SafetensorsTest() override { unlink(path_.c_str()); }

  static std::string WithHeader(const std::string& header, size_t data_bytes) {
    const uint64_t length = header.size();
    std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
    file += header;
    for (size_t i = 0; i < data_bytes; ++i) file.push_back(static_cast<char>(i));
    return file;
  }

  absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
    return SafetensorsFile::Open(path_);
  }

  void ExpectRefused(const std::string& bytes, const std::string& reason) {
    const auto file = Open(bytes);
    ASSERT_FALSE(file.ok()) << reason;
    const std::string message(Message(file.status()));
    EXPECT_NE(message.find(path_), std::string::npos) << "does not name the file: " << message;
    EXPECT_NE(message.find(reason), std::string::npos) << message;
  }

  const std::string path_ = TempDir() + "/fathom_" + std::to_string(getpid()) + ".safetensors";
};

TEST_F(SafetensorsTest, TensorsAreSeenWhereTheHeaderSays) {
  const auto file = Open(WithHeader(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
      R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
      R"("empty":{"dtype":"I64","shape":[0,7],"data_offsets":[28,28]},)"
      R"("scalar":{"dtype":"U8","shape":[],"data_offsets":[28,29]}})",
      29));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& tensors = (*file)->tensors();
  ASSERT_EQ(tensors.size(), 4U);
  const kernels::TensorView& a = tensors.find("a")->second;
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(a.rank, 2);
  EXPECT_EQ(a.shape[0], 2);
  EXPECT_EQ(a.shape[1], 3);
  EXPECT_EQ(static_cast<const char*>(a.data)[0], 4);
  EXPECT_EQ(static_cast<const char*>(tensors.find("b")->second.data)[0], 0);
  EXPECT_EQ(tensors.find("scalar")->second.NumBytes(), 1U);
}

TEST_F(SafetensorsTest, MissingFileIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(SafetensorsFile::Open(path_ + ".none").status()));
}

TEST_F(SafetensorsTest, FileTooShortForALengthIsRefused) {
  ExpectRefused("", "too short");
  ExpectRefused("1234567", "too short");
}

TEST_F(SafetensorsTest, HeaderLongerThanTheFileIsRefused) {
  for (const uint64_t length :
       {uint64_t{3}, uint64_t{100}, uint64_t{1} << 40, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
    file += "{}";
    ExpectRefused(file, "header");
  }
}

TEST_F(SafetensorsTest, HeaderThatIsNotAnObjectIsRefused) {
  ExpectRefused(WithHeader("{\"a\":", 0), "not JSON");
  ExpectRefused(WithHeader("[]", 0), "not a JSON object");
  ExpectRefused(WithHeader(R"({"a":3})", 0), "not an object");
}

TEST_F(SafetensorsTest, TensorBehindTheEndIsRefused) {
  ExpectRefused(WithHeader(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 15),
                "tensor \"a\": ends at byte 16 of 15");
}

TEST_F(SafetensorsTest, OffsetsThatMakeNoSenseAreRefused) {
  for (const char* offsets : {"[8,4]", "[-4,0]", "[0]", "[0,4,8]", "\"0,4\"", "[0.5,4.5]",
                              "[18446744073709551615,4]", "[0,1e30]"}) {
    ExpectRefused(
        WithHeader(
            std::string(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)") + offsets + "}}", 16),
        "tensor \"a\"");
  }
}

TEST_F(SafetensorsTest, ShapeThatDoesNotMatchItsBytesIsRefused) {
  ExpectRefused(WithHeader(R"({"a":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,16]}})", 16),
                "need 12 bytes, data_offsets give 16");
}

TEST_F(SafetensorsTest, ShapeThatOverflowsIsRefused) {
  ExpectRefused(WithHeader(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],)"
                           R"("data_offsets":[0,0]}})",
                           0),
                "shape");
  ExpectRefused(WithHeader(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}})", 0),
                "shape");
  ExpectRefused(WithHeader(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})", 4),
                "more dimensions");
}

TEST_F(SafetensorsTest, OverlappingTensorsAreRefused) {
  ExpectRefused(WithHeader(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                           R"("b":{"dtype":"U8","shape":[8],"data_offsets":[7,15]}})",
                           15),
                "tensor \"b\": overlaps");
}

TEST_F(SafetensorsTest, UnknownTypeIsRefusedByName) {
  ExpectRefused(WithHeader(R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", 1),
                "unknown dtype F4");
}

// Whatever the bytes, opening ends in a status or in tensors that lie inside the file.
TEST_F(SafetensorsTest, MutilatedFilesNeverEscapeTheirBytes) {
  const std::string good = WithHeader(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                                      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})",
                                      32);
  std::mt19937 random(20);
  int opened = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = good;
    const int edits = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < edits; ++i) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = static_cast<char>('0' + random() % 10);
          break;
        case 2:
          bytes.erase(at, 1 + random() % 8);
          break;
        default:
          bytes.insert(at, 1 + random() % 8, static_cast<char>('0' + random() % 10));
      }
    }
    const auto file = Open(bytes);
    if (!file.ok()) continue;
    ++opened;
    volatile unsigned sum = 0;
    for (const auto& [name, view] : (*file)->tensors()) {
      const auto* data = static_cast<const unsigned char*>(view.data);
      for (size_t i = 0; i < view.NumBytes(); ++i) sum = sum + data[i];
      ASSERT_LE(view.NumBytes(), bytes.size());
    }
  }
  EXPECT_GT(opened, 0) << "the mutations test nothing";
}

}  // namespace
}  // namespace fathom::worker
