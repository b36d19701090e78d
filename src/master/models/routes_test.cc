#include "master/models/routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

using testing::ElementsAre;

TEST(RoutesTest, NamesOfModelsComeApart) {
  EXPECT_EQ(ModelNameOf("chat", 7), "chat@7");
  EXPECT_EQ(ModelNameOf("chat", 0), "chat");
  EXPECT_EQ(SplitModelName("org/chat-8b@12").name, "org/chat-8b");
  EXPECT_EQ(SplitModelName("org/chat-8b@12").version, 12);
  for (const char* whole :
       {"chat", "chat@", "chat@x", "chat@0", "chat@-1", "chat@99999999999999999999"}) {
    EXPECT_EQ(SplitModelName(whole).name, whole);
    EXPECT_EQ(SplitModelName(whole).version, 0) << whole;
  }
}

TEST(RoutesTest, WhatIsNoRouteIsRefused) {
  EXPECT_TRUE(CheckRouteName("deepseek-ai/R1:latest_2.0").ok());
  for (const char* name : {"", "a b", "a@1", "a=1", "a,b", "\n"}) {
    EXPECT_FALSE(CheckRouteName(name).ok()) << name;
  }
  EXPECT_FALSE(CheckRouteName(std::string(129, 'a')).ok());
  for (const char* targets : {"", "a", "a=", "a=99", "a=101", "a=0,b=100", "a=50,a=50",
                              "a=50,,b=50", "a b=100", "a=50,b=51", "a=100,b"}) {
    EXPECT_FALSE(ParseTargets(targets).ok()) << targets;
  }
  EXPECT_FALSE(ParseTargets("a=12,b=11,c=11,d=11,e=11,f=11,g=11,h=11,i=11").ok()) << "nine";
  const auto targets = ParseTargets("a@1=95,b=5");
  ASSERT_TRUE(targets.ok()) << targets.status();
  EXPECT_THAT(*targets, ElementsAre(RouteTarget{"a@1", 95}, RouteTarget{"b", 5}));
  EXPECT_EQ(FormatTargets(*targets), "a@1=95,b=5");
}

TEST(RoutesTest, ACanaryTakesItsShareOfAll) {
  EXPECT_THAT(WithCanary({{"a", 100}}, "b", 5).value(),
              ElementsAre(RouteTarget{"a", 95}, RouteTarget{"b", 5}));
  EXPECT_THAT(WithCanary({{"a", 95}, {"b", 5}}, "b", 40).value(),
              ElementsAre(RouteTarget{"a", 60}, RouteTarget{"b", 40}));
  EXPECT_THAT(WithCanary({{"a", 67}, {"b", 33}}, "c", 10).value(),
              ElementsAre(RouteTarget{"a", 61}, RouteTarget{"b", 29}, RouteTarget{"c", 10}));
  EXPECT_THAT(WithCanary({{"a", 98}, {"b", 1}, {"c", 1}}, "d", 97).value(),
              ElementsAre(RouteTarget{"a", 1}, RouteTarget{"b", 1}, RouteTarget{"c", 1},
                          RouteTarget{"d", 97}));
  EXPECT_FALSE(WithCanary({{"a", 98}, {"b", 1}, {"c", 1}}, "d", 98).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(WithCanary({{"a", 100}}, "a", 5).status()));
  EXPECT_FALSE(WithCanary({{"a", 100}}, "b", 0).ok());
  EXPECT_FALSE(WithCanary({{"a", 100}}, "b", 100).ok());
  for (int32_t percent = 1; percent < 98; ++percent) {
    EXPECT_TRUE(
        CheckTargets(WithCanary({{"a", 51}, {"b", 48}, {"c", 1}}, "d", percent).value()).ok());
  }
}

TEST(RoutesTest, AReplacementTakesTheWholeShare) {
  EXPECT_THAT(Replace({{"a", 60}, {"b", 40}}, "a", "c"),
              ElementsAre(RouteTarget{"c", 60}, RouteTarget{"b", 40}));
  EXPECT_THAT(Replace({{"a", 60}, {"b", 40}}, "a", "b"), ElementsAre(RouteTarget{"b", 100}));
  EXPECT_THAT(Replace({{"a", 100}}, "x", "b"), ElementsAre(RouteTarget{"a", 100}));
}

TEST(RoutesTest, ADrawIsTheSameForARequestAndFairOverMany) {
  const RouteTargets targets = {{"a", 70}, {"b", 25}, {"c", 5}};
  std::map<std::string, int> drawn;
  for (int i = 0; i < 20'000; ++i) {
    const std::string id = absl::StrCat(absl::Hex(i, absl::kZeroPad16), "0123456789abcdef");
    const std::string& model = DrawTarget(targets, id).model;
    EXPECT_EQ(DrawTarget(targets, id).model, model);
    ++drawn[model];
  }
  EXPECT_NEAR(drawn["a"], 14'000, 300);
  EXPECT_NEAR(drawn["b"], 5000, 300);
  EXPECT_NEAR(drawn["c"], 1000, 150);
  EXPECT_EQ(MainTarget(targets).model, "a");
  EXPECT_EQ(MainTarget({{"x", 50}, {"y", 50}}).model, "x");
}

}  // namespace
}  // namespace fathom::master
