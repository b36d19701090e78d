#include "common/repeated_news.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(RepeatedNewsTest, ANameIsSaidOnceInAWhileWithHowManyWereHeldBack) {
  FakeClock clock;
  RepeatedNews news(&clock);
  EXPECT_EQ(news.Say("a"), 0);
  for (int i = 0; i < 5; ++i) {
    clock.Advance(absl::Seconds(5));
    EXPECT_EQ(news.Say("a"), std::nullopt);
  }
  EXPECT_EQ(news.Say("b"), 0) << "another's news waits for nobody";
  clock.Advance(absl::Seconds(5));
  EXPECT_EQ(news.Say("a"), 5);
  EXPECT_EQ(news.Say("a"), std::nullopt);
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(news.Say("a"), 1);
}

TEST(RepeatedNewsTest, NamesOverTheBoundShareOneUntilThereIsRoom) {
  FakeClock clock;
  RepeatedNews news(&clock, 2);
  EXPECT_EQ(news.Say("a"), 0);
  EXPECT_EQ(news.Say("b"), 0);
  EXPECT_EQ(news.Say("c"), 0);
  EXPECT_EQ(news.Say("d"), std::nullopt);
  EXPECT_EQ(news.Say("c"), std::nullopt);
  clock.Advance(RepeatedNews::kEvery);
  EXPECT_EQ(news.Say("e"), 0) << "a and b are over";
  EXPECT_EQ(news.Say("f"), 0);
  EXPECT_EQ(news.Say("g"), 2) << "what the others held back";
}

}  // namespace
}  // namespace fathom
