#include "master/api/kserve_tensor.h"

#include <gtest/gtest.h>

#include <boost/json/value.hpp>
#include <limits>

#include "absl/strings/match.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

inference::ModelInferRequest Request(const std::string& datatype,
                                     const std::vector<int64_t>& shape) {
  inference::ModelInferRequest request;
  auto& tensor = *request.add_inputs();
  tensor.set_name("x");
  tensor.set_datatype(datatype);
  for (const int64_t size : shape) tensor.add_shape(size);
  return request;
}

absl::StatusOr<std::vector<KserveInput>> TakeRaw(const std::string& datatype,
                                                 const std::vector<int64_t>& shape,
                                                 const std::string& raw) {
  inference::ModelInferRequest request = Request(datatype, shape);
  request.add_raw_input_contents(raw);
  return TakeInputs(request);
}

void ExpectBad(const absl::Status& status, const char* said) {
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), said)) << status << " does not say " << said;
}

TEST(KserveTensorTest, ReadsRawElements) {
  const std::string two_ints("\x01\x00\x00\x00\xff\xff\xff\x7f", 8);
  const auto inputs = TakeRaw("INT32", {1, 2}, two_ints);
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  const auto ids = TokenElements(inputs->front());
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*ids, (std::vector<TokenId>{1, std::numeric_limits<int32_t>::max()}));

  std::string texts;
  AppendBytesElement("one", texts);
  AppendBytesElement("", texts);
  const auto bytes = TakeRaw("BYTES", {2}, texts);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*BytesElements(bytes->front()), (std::vector<std::string>{"one", ""}));
}

TEST(KserveTensorTest, RawBytesMustFitTheShape) {
  const std::string four("\x01\x00\x00\x00", 4);
  ExpectBad(TakeRaw("INT32", {2}, four).status(), "needs 8 bytes and 4 came");
  ExpectBad(TakeRaw("INT64", {1}, four).status(), "needs 8 bytes and 4 came");
  ExpectBad(TakeRaw("INT32", {0}, four).status(), "needs 0 bytes and 4 came");
  ExpectBad(TakeRaw("INT32", {1}, four.substr(1)).status(), "needs 4 bytes and 3 came");
  EXPECT_TRUE(TakeRaw("INT32", {}, four).ok()) << "no dimension is one element";
}

TEST(KserveTensorTest, BytesElementsAreNeverCutShort) {
  ExpectBad(TakeRaw("BYTES", {1}, std::string("\x05\x00\x00", 3)).status(), "cut short");
  ExpectBad(TakeRaw("BYTES", {1}, std::string("\x05\x00\x00\x00text", 8)).status(), "cut short");
  ExpectBad(TakeRaw("BYTES", {1}, std::string("\xff\xff\xff\xfftext", 8)).status(), "cut short");
  ExpectBad(TakeRaw("BYTES", {2}, std::string("\x01\x00\x00\x00t", 5)).status(),
            "2 elements and 1");
  ExpectBad(TakeRaw("BYTES", {1}, "").status(), "1 elements and 0");
}

TEST(KserveTensorTest, HugeAndNegativeShapesAreRefused) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  ExpectBad(TakeRaw("INT32", {kMost}, "").status(), "too large");
  ExpectBad(TakeRaw("INT32", {1 << 20, 1 << 20}, "").status(), "too large");
  ExpectBad(TakeRaw("INT64", {1 << 26, 1 << 26, 1 << 26, 1 << 26}, "").status(), "too large");
  ExpectBad(TakeRaw("BYTES", {1 << 26}, "").status(), "elements and 0 came");
  ExpectBad(TakeRaw("INT32", {-1}, "").status(), "negative");
  ExpectBad(TakeRaw("INT32", {1, 1, 1, 1, 1, 1, 1, 1, 1}, "").status(), "dimensions");
}

TEST(KserveTensorTest, DatatypesMustExist) {
  ExpectBad(TakeRaw("STRING", {1}, "x").status(), "does not exist");
  ExpectBad(TakeRaw("", {1}, "x").status(), "does not exist");
}

TEST(KserveTensorTest, ReadsTypedContents) {
  inference::ModelInferRequest request = Request("INT64", {2});
  request.mutable_inputs(0)->mutable_contents()->add_int64_contents(3);
  request.mutable_inputs(0)->mutable_contents()->add_int64_contents(4);
  const auto inputs = TakeInputs(request);
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  EXPECT_EQ(*TokenElements(inputs->front()), (std::vector<TokenId>{3, 4}));

  request = Request("FP32", {1});
  request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(0.5f);
  EXPECT_EQ(ScalarElement(TakeInputs(request)->front())->as_double(), 0.5);
  request = Request("UINT64", {1});
  request.mutable_inputs(0)->mutable_contents()->add_uint64_contents(~uint64_t{0});
  EXPECT_EQ(ScalarElement(TakeInputs(request)->front())->as_uint64(), ~uint64_t{0});
}

TEST(KserveTensorTest, TypedContentsMustBeOfTheDatatype) {
  inference::ModelInferRequest request = Request("INT32", {1});
  request.mutable_inputs(0)->mutable_contents()->add_int64_contents(3);
  ExpectBad(TakeInputs(request).status(), "another datatype");
  request = Request("INT8", {1});
  request.mutable_inputs(0)->mutable_contents()->add_int_contents(128);
  ExpectBad(TakeInputs(request).status(), "128 does not fit INT8");
  request = Request("UINT16", {1});
  request.mutable_inputs(0)->mutable_contents()->add_uint_contents(65536);
  ExpectBad(TakeInputs(request).status(), "does not fit UINT16");
  request = Request("BF16", {1});
  ExpectBad(TakeInputs(request).status(), "raw_input_contents");
  request = Request("BOOL", {2});
  request.mutable_inputs(0)->mutable_contents()->add_bool_contents(true);
  ExpectBad(TakeInputs(request).status(), "needs 2 bytes and 1 came");
}

TEST(KserveTensorTest, RawAndTypedContentsExcludeEachOther) {
  inference::ModelInferRequest request = Request("INT32", {1});
  request.mutable_inputs(0)->mutable_contents()->add_int_contents(1);
  request.add_raw_input_contents(std::string(4, '\0'));
  ExpectBad(TakeInputs(request).status(), "although raw_input_contents");
  request = Request("INT32", {1});
  request.add_raw_input_contents(std::string(4, '\0'));
  request.add_raw_input_contents(std::string(4, '\0'));
  ExpectBad(TakeInputs(request).status(), "2 entries for 1 inputs");
}

TEST(KserveTensorTest, InputsComeOnceAndHaveNoParameters) {
  inference::ModelInferRequest request = Request("INT32", {0});
  *request.add_inputs() = request.inputs(0);
  ExpectBad(TakeInputs(request).status(), "twice");
  request = Request("INT32", {0});
  (*request.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("a");
  ExpectBad(TakeInputs(request).status(), "shared_memory_region");
  request = {};
  for (int i = 0; i < 65; ++i) request.add_inputs();
  ExpectBad(TakeInputs(request).status(), "at most 64");
}

TEST(KserveTensorTest, TokensAndScalarsAreChecked) {
  const auto negative = TakeRaw("INT64", {1}, std::string(8, '\xff'));
  ExpectBad(TokenElements(negative->front()).status(), "no token id");
  const auto large = TakeRaw("INT64", {1}, std::string("\0\0\0\0\1\0\0\0", 8));
  ExpectBad(TokenElements(large->front()).status(), "no token id");
  const auto real = TakeRaw("FP32", {1}, std::string(4, '\0'));
  ExpectBad(TokenElements(real->front()).status(), "INT32 or INT64");
  ExpectBad(BytesElements(real->front()).status(), "BYTES");
  const auto two = TakeRaw("BOOL", {2}, std::string(2, '\1'));
  ExpectBad(ScalarElement(two->front()).status(), "one element");
  const auto half = TakeRaw("FP16", {1}, std::string(2, '\1'));
  ExpectBad(ScalarElement(half->front()).status(), "FP16");
  const auto yes = TakeRaw("BOOL", {1}, std::string(1, '\1'));
  EXPECT_TRUE(ScalarElement(yes->front())->as_bool());
}

TEST(KserveTensorTest, JsonElementsMustFit) {
  std::string data;
  EXPECT_TRUE(AppendElement("x", inference::TYPE_UINT8, json::value(255), data).ok());
  EXPECT_TRUE(AppendElement("x", inference::TYPE_INT16, json::value(-2), data).ok());
  EXPECT_EQ(data, std::string("\xff\xfe\xff", 3));
  ExpectBad(AppendElement("x", inference::TYPE_UINT8, json::value(256), data), "no UINT8");
  ExpectBad(AppendElement("x", inference::TYPE_UINT8, json::value(-1), data), "no UINT8");
  ExpectBad(AppendElement("x", inference::TYPE_INT64, json::value(~uint64_t{0}), data), "no INT64");
  ExpectBad(AppendElement("x", inference::TYPE_INT32, json::value(1.5), data), "no INT32");
  ExpectBad(AppendElement("x", inference::TYPE_BOOL, json::value(1), data), "true or false");
  ExpectBad(AppendElement("x", inference::TYPE_STRING, json::value(1), data), "strings");
  EXPECT_EQ(data.size(), 3u);
}

}  // namespace
}  // namespace fathom::master
