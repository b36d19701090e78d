#include "common/json_text.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <limits>

#include "common/random.h"

namespace fathom {
namespace {

namespace json = boost::json;

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(out, text);
  return out;
}

TEST(JsonTextTest, EscapesWhatJsonWants) {
  EXPECT_EQ(Quoted("a\"b\\c\n\r\t\x01\x1f"), R"("a\"b\\c\n\r\t\u0001\u001f")");
  EXPECT_EQ(Quoted("héllo 世界 🙂"), "\"héllo 世界 🙂\"");
  EXPECT_EQ(Quoted(""), "\"\"");
}

TEST(JsonTextTest, BrokenUtf8IsReplaced) {
  EXPECT_EQ(Quoted("a\xff"
                   "b"),
            "\"a\xEF\xBF\xBD"
            "b\"");
  EXPECT_EQ(Quoted("\xE4\xB8"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
  EXPECT_EQ(Quoted("\xED\xA0\x80"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");  // a surrogate
  EXPECT_EQ(Quoted("\xC0\x80"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");                  // overlong
}

TEST(JsonTextTest, AnyBytesBecomeJsonThatReadsBack) {
  SeededRandom random(5);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (uint64_t i = 0; i < random.Next() % 40; ++i) {
      bytes += static_cast<char>(random.Next() % 256);
    }
    boost::system::error_code error;
    const json::value value = json::parse(Quoted(bytes), error);
    ASSERT_FALSE(error) << error.message();
    EXPECT_EQ(std::string(value.as_string()), ValidUtf8(bytes));
  }
}

TEST(JsonTextTest, NumbersThatJsonLacks) {
  std::string out;
  AppendJsonNumber(out, -std::numeric_limits<float>::infinity());
  out += ' ';
  AppendJsonNumber(out, std::nanf(""));
  out += ' ';
  AppendJsonNumber(out, -0.25f);
  out += ' ';
  AppendJsonNumber(out, int64_t{-7});
  EXPECT_EQ(out, "-9999.0 -9999.0 -0.25 -7");
}

TEST(JsonTextTest, RawMemberCutsTheClientsOwnBytes) {
  const std::string text =
      R"( { "a" : [1, {"b": "}],"}, 2.50] , "xy": "a\\", "n": -1e5,"o":{ "k" : null } , "e":""})";
  EXPECT_EQ(RawMember(text, "a"), R"([1, {"b": "}],"}, 2.50])");
  EXPECT_EQ(RawMember(text, "n"), "-1e5");
  EXPECT_EQ(RawMember(text, "o"), R"({ "k" : null })");
  EXPECT_EQ(RawMember(text, "e"), "\"\"");
  EXPECT_FALSE(RawMember(text, "b").has_value()) << "only the outermost members";
  EXPECT_FALSE(RawMember(text, "k").has_value());
  EXPECT_FALSE(RawMember("[1]", "a").has_value());
  EXPECT_EQ(RawMember(R"({"a":1,"a":2})", "a"), "2") << "as parsers have it";
  EXPECT_FALSE(RawMember("{}", "a").has_value());
  EXPECT_FALSE(RawMember(R"({"a":1,"\u0061":2})", "a").has_value()) << "which one counts?";
}

// What is cut out of valid JSON is the member's value, whatever the JSON.
TEST(JsonTextTest, RawMemberAgreesWithTheParser) {
  SeededRandom random(9);
  const auto any = [&](auto&& self, int depth) -> json::value {
    switch (random.Next() % (depth > 3 ? 4 : 6)) {
      case 0:
        return nullptr;
      case 1:
        return static_cast<int64_t>(random.Next() % 1000) - 500;
      case 2: {
        std::string text;
        for (uint64_t i = 0; i < random.Next() % 8; ++i)
          text += "ab\"\\{}[],: \n"[random.Next() % 12];
        return json::string(text);
      }
      case 3:
        return random.Next() % 2 == 0;
      case 4: {
        json::array array;
        for (uint64_t i = 0; i < random.Next() % 4; ++i) array.push_back(self(self, depth + 1));
        return array;
      }
      default: {
        json::object object;
        for (uint64_t i = 0; i < random.Next() % 4; ++i) {
          object[std::string(1, static_cast<char>('a' + random.Next() % 6))] =
              self(self, depth + 1);
        }
        return object;
      }
    }
  };
  for (int round = 0; round < 2000; ++round) {
    json::object object;
    for (const char* key : {"a", "b", "c"}) object[key] = any(any, 0);
    const std::string text = json::serialize(object);
    for (const char* key : {"a", "b", "c"}) {
      const auto raw = RawMember(text, key);
      ASSERT_TRUE(raw.has_value()) << text;
      EXPECT_EQ(json::parse(json::string_view(raw->data(), raw->size())), object[key]) << text;
    }
  }
}

}  // namespace
}  // namespace fathom
