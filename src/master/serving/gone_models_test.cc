#include "master/serving/gone_models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fathom::master {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(GoneModelsTest, AModelIsGoneWhenItWasSoForAWhile) {
  GoneModels gone;
  constexpr int64_t kLate = GoneModels::kPatienceNs;
  EXPECT_THAT(gone.Look({"chat@1"}, 0), IsEmpty());
  EXPECT_THAT(gone.Look({"chat@1", "chat@2"}, kLate - 1), IsEmpty());
  EXPECT_THAT(gone.Look({"chat@1", "chat@2"}, kLate), ElementsAre("chat@1"));
  EXPECT_THAT(gone.Look({"chat@2"}, kLate + 1), IsEmpty()) << "it is there again";
  EXPECT_THAT(gone.Look({"chat@1", "chat@2"}, 2 * kLate - 1), ElementsAre("chat@2"));
  EXPECT_THAT(gone.Look({"chat@1"}, 3 * kLate), ElementsAre("chat@1"));
}

}  // namespace
}  // namespace fathom::master
