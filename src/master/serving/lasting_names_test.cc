#include "master/serving/lasting_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fathom::master {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(LastingNamesTest, WhatHoldsAtEveryLookForAWhileLasts) {
  LastingNames names;
  constexpr int64_t kLate = LastingNames::kPatienceNs;
  EXPECT_THAT(names.Look({"chat@1"}, 0), IsEmpty());
  EXPECT_THAT(names.Look({"chat@1", "chat@2"}, kLate - 1), IsEmpty());
  EXPECT_THAT(names.Look({"chat@1", "chat@2"}, kLate), ElementsAre("chat@1"));
  EXPECT_THAT(names.Look({"chat@2"}, kLate + 1), IsEmpty()) << "it was not so before";
  EXPECT_THAT(names.Look({"chat@1", "chat@2"}, 2 * kLate - 1), ElementsAre("chat@2"));
  EXPECT_THAT(names.Look({"chat@1"}, 3 * kLate), ElementsAre("chat@1"));
}

}  // namespace
}  // namespace fathom::master
