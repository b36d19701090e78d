// Orders that carry a leader's epoch.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/hand_master_testing.h"
#include "worker/link_client.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

TEST(LinkEpochTest, OrdersOfAnOldLeaderAreRefused) {
  HandMaster master;
  ScriptedEngine engine;
  LinkClientOptions options = TestOptions({master.port});
  options.silence_floor = absl::Minutes(1);  // this master sends no heartbeats
  const auto client = StartClient(options, engine);
  ASSERT_TRUE(master.WaitUntil([&] { return !master.received.empty(); }));
  const auto order = [&](uint64_t epoch) {
    v1::MasterControl drain;
    drain.mutable_drain()->set_epoch(epoch);
    master.Send(drain);
  };
  order(5);
  ASSERT_TRUE(engine.WaitUntil([&] { return engine.leaves == 1; }));
  order(4);
  order(6);  // comes after the refused one
  ASSERT_TRUE(engine.WaitUntil([&] { return engine.leaves == 2; }));
  order(4);
  order(6);
  ASSERT_TRUE(engine.WaitUntil([&] { return engine.leaves == 3; }));
}

}  // namespace
}  // namespace fathom::worker
