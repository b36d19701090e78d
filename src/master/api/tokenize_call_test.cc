#include "master/api/tokenize_call.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

const Catalog& Models() {
  static const Catalog kCatalog = [] {
    const char* root = std::getenv("FATHOM_SOURCE_DIR");
    auto model = LoadServedModel(absl::StrCat(root == nullptr ? "." : root, "/models/tiny"), "tiny",
                                 absl::UnixEpoch());
    EXPECT_TRUE(model.ok()) << model.status();
    return Catalog({*model});
  }();
  return kCatalog;
}

TEST(TokenizeBodyTest, TextThereAndBack) {
  const auto body =
      TokenizeBody(R"({"model":"tiny","prompt":"Hello 世界","return_token_strs":true})", Models());
  ASSERT_TRUE(body.ok()) << body.status();
  const boost::json::value answer = boost::json::parse(*body);
  const boost::json::array& tokens = answer.at("tokens").as_array();
  EXPECT_EQ(answer.at("count").as_int64(), static_cast<int64_t>(tokens.size()));
  EXPECT_EQ(answer.at("token_strs").as_array().size(), tokens.size());
  EXPECT_EQ(answer.at("max_model_len").as_int64(), 4096);
  const auto text = DetokenizeBody(
      absl::StrCat(R"({"model":"tiny","tokens":)", boost::json::serialize(tokens), "}"), Models());
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, R"({"prompt":"Hello 世界"})");
}

TEST(TokenizeBodyTest, ChatsAreRendered) {
  const auto count = [](const std::string& rest) {
    const auto body = TokenizeBody(
        absl::StrCat(R"({"model":"tiny","messages":[{"role":"user","content":"hi"}])", rest, "}"),
        Models());
    EXPECT_TRUE(body.ok()) << body.status();
    return body.ok() ? boost::json::parse(*body).at("count").as_int64() : 0;
  };
  const int64_t with_prompt = count("");
  EXPECT_GT(with_prompt, count(R"(,"add_generation_prompt":false)"));
  EXPECT_LT(with_prompt, count(R"(,"tools":[{"type":"function","function":{"name":"f"}}])"));
}

TEST(TokenizeBodyTest, ErrorsNameTheField) {
  for (const auto& [body, param] : std::vector<std::pair<std::string, std::string>>{
           {R"({"model":"tiny"})", "prompt"},
           {R"({"prompt":"x"})", "model"},
           {R"({"model":"other","prompt":"x"})", "model"},
           {R"({"model":"tiny","prompt":5})", "prompt"},
           {R"({"model":"tiny","prompt":"x","colour":1})", "colour"},
           {R"({"model":"tiny","messages":[]})", "messages"}}) {
    EXPECT_EQ(FailureParam(TokenizeBody(body, Models()).status()), param) << body;
  }
  for (const char* tokens : {"null", "5", "[-1]", "[4096]", "[1.5]"}) {
    const auto text =
        DetokenizeBody(absl::StrCat(R"({"model":"tiny","tokens":)", tokens, "}"), Models());
    EXPECT_EQ(FailureParam(text.status()), "tokens") << tokens;
  }
}

}  // namespace
}  // namespace fathom::master
