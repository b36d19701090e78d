#include "common/expiring_names.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(ExpiringNamesTest, HoldsEachForItsTime) {
  ExpiringNames names(10);
  EXPECT_TRUE(names.Add("a", 100, 0));
  EXPECT_TRUE(names.Add("b", 200, 0));
  EXPECT_FALSE(names.Add("a", 50, 10)) << "no news";
  EXPECT_EQ(names.LeftNs("a", 40), 60) << "and no shorter";
  EXPECT_FALSE(names.Add("a", 150, 50));
  EXPECT_EQ(names.LeftNs("a", 50), 100);
  EXPECT_EQ(names.LeftNs("a", 150), 0);
  EXPECT_EQ(names.LeftNs("c", 0), 0);
  ASSERT_EQ(names.All(160).size(), 1u);
  EXPECT_EQ(names.All(160).front().first, "b");
  EXPECT_EQ(names.All(160).front().second, 40);
  EXPECT_TRUE(names.Add("a", 300, 160)) << "it is news again";
  EXPECT_FALSE(names.Add("late", 160, 160));
  names.Remove("a");
  EXPECT_EQ(names.LeftNs("a", 160), 0);
}

TEST(ExpiringNamesTest, TakesNoMoreThanItsMaximum) {
  ExpiringNames names(2);
  EXPECT_TRUE(names.Add("a", 100, 0));
  EXPECT_TRUE(names.Add("b", 200, 0));
  EXPECT_FALSE(names.Add("c", 300, 0));
  EXPECT_EQ(names.LeftNs("c", 0), 0);
  EXPECT_FALSE(names.Add("b", 250, 0)) << "what is there may still hold longer";
  EXPECT_EQ(names.LeftNs("b", 0), 250);
  EXPECT_TRUE(names.Add("c", 300, 100)) << "one has gone";
}

}  // namespace
}  // namespace fathom
