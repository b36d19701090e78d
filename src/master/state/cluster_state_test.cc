#include "master/state/cluster_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "master/state/state_testing.h"

namespace fathom::master {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class ClusterStateTest : public StateTest {
 protected:
  std::unique_ptr<ClusterState> Open() {
    auto state = ClusterState::Open(url_);
    EXPECT_TRUE(state.ok()) << state.status();
    return *std::move(state);
  }
  static MasterIdentity Named(const std::string& id) {
    return {.id = id, .incarnation = id + "-1", .link_address = id + ":5000", .build = "test"};
  }
  static MasterLoad Load() {
    return {.queued = 1, .in_flight = 3, .workers = 2, .tokens_total = 7};
  }
  template <typename Condition>
  static bool Becomes(Condition condition) {
    for (int i = 0; i < 2000; ++i) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }
};

TEST_F(ClusterStateTest, MastersSeeEachOtherAndOneLeads) {
  auto a = Open();
  auto b = Open();
  EXPECT_EQ(a->epoch(), 0U);
  EXPECT_FALSE(a->is_leader());
  a->Join(Named("a"), Load);
  b->Join(Named("b"), Load);
  ASSERT_TRUE(Becomes([&] { return a->masters().size() == 2 && b->masters().size() == 2; }));
  EXPECT_THAT(b->link_addresses(), ElementsAre("a:5000", "b:5000"));
  EXPECT_EQ(b->link_address(), "b:5000");
  const MasterRow row = b->masters()[0];
  EXPECT_EQ(row.identity.id, "a");
  EXPECT_EQ(row.figures.in_flight, 3);
  EXPECT_EQ(row.figures.queued, 1);
  EXPECT_LT(row.age_seconds, 5);
  ASSERT_TRUE(Becomes([&] { return a->is_leader() != b->is_leader(); }));
  ASSERT_TRUE(Becomes([&] { return a->leader().holder == b->leader().holder && a->epoch() == 1; }));

  const bool a_led = a->is_leader();
  (a_led ? a : b)->Leave();
  EXPECT_FALSE((a_led ? a : b)->is_leader());
  ClusterState& other = *(a_led ? b : a);
  ASSERT_TRUE(Becomes([&] { return other.masters().size() == 1 && other.is_leader(); }));
  EXPECT_EQ(other.epoch(), 2U);
}

TEST_F(ClusterStateTest, ADeadMastersRowStopsCounting) {
  auto session = ConnectMigrated();
  ASSERT_TRUE(WriteMasterRow(*session, Named("dead"), {}).ok());
  EXPECT_EQ(ReadMasterRows(*session)->size(), 1U);
  ASSERT_TRUE(session->Execute("UPDATE master_status SET updated_at = updated_at - 6000").ok());
  EXPECT_EQ(ReadMasterRows(*session)->size(), 0U);
}

TEST(LoneMasterTest, LeadsItselfAndTellsWorkersOfNobody) {
  auto state = ClusterState::Open(DatabaseUrl{});
  ASSERT_TRUE(state.ok()) << state.status();
  (*state)->Join({.id = "a", .incarnation = "1", .link_address = "a:5000"},
                 [] { return MasterLoad{}; });
  for (int i = 0; i < 2000 && !(*state)->is_leader(); ++i) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_TRUE((*state)->is_leader());
  EXPECT_THAT((*state)->link_addresses(), IsEmpty());
  EXPECT_EQ((*state)->link_address(), "");
}

}  // namespace
}  // namespace fathom::master
