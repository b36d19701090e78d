#include "master/state/master_conflicts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fathom::master {
namespace {

using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;

MasterRow Row(std::string id, std::string incarnation, std::string mark, double up_seconds = 60,
              double age_seconds = 0.5) {
  return {.identity = {.id = std::move(id),
                       .incarnation = std::move(incarnation),
                       .secret_mark = std::move(mark)},
          .up_seconds = up_seconds,
          .age_seconds = age_seconds};
}

TEST(MasterConflictsTest, MastersOfOneSecretAndTheirOwnNamesFit) {
  const MasterRow self = Row("a", "1", "s");
  EXPECT_THAT(FindConflicts(self.identity, {self, Row("b", "2", "s"), Row("c", "3", "s")}),
              IsEmpty());
}

TEST(MasterConflictsTest, AnotherSecretIsToldAndOneThatIsNotKnownIsNot) {
  const MasterRow self = Row("a", "1", "s");
  const auto conflicts =
      FindConflicts(self.identity, {self, Row("b", "2", "t"), Row("older release", "3", "")});
  ASSERT_THAT(conflicts, ElementsAre(Field(&MasterConflict::incarnation, "2")));
  EXPECT_EQ(conflicts[0].kind, ConflictKind::kSecret);
  EXPECT_THAT(TextOf(conflicts[0]), testing::HasSubstr("'b' has another cluster secret"));
}

TEST(MasterConflictsTest, TwoThatLiveUnderOneNameAreTold) {
  const MasterRow self = Row("a", "1", "s");
  const auto conflicts = FindConflicts(self.identity, {self, Row("a", "2", "s", 2)});
  ASSERT_THAT(conflicts, ElementsAre(Field(&MasterConflict::incarnation, "2")));
  EXPECT_EQ(conflicts[0].kind, ConflictKind::kId);
  EXPECT_THAT(TextOf(conflicts[0]), testing::HasSubstr("--id of its own"));
}

TEST(MasterConflictsTest, WhoComesBackIsNotAtOddsWithWhatItWas) {
  const MasterRow self = Row("a", "2", "s", 1);
  EXPECT_THAT(FindConflicts(self.identity, {Row("a", "1", "s", 60, 1.5), self}), IsEmpty());
  const MasterRow killed = Row("a", "1", "s", 60, 4.9);
  EXPECT_THAT(FindConflicts(Row("a", "2", "s", 7).identity, {killed, Row("a", "2", "s", 7)}),
              IsEmpty());
  EXPECT_THAT(FindConflicts(self.identity, {}), IsEmpty()) << "it has not written yet";
}

}  // namespace
}  // namespace fathom::master
