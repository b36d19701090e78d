// What a master hears, and when, of a worker that has had nothing to do or has too much to say; the
// master is one by hand.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "worker/hand_master_testing.h"
#include "worker/link_client.h"

namespace fathom::worker {
namespace {

TEST(LinkRestTest, AMasterThatCannotBeToldOfAllModelsIsDialledAgain) {
  HandMaster first;
  HandMaster second;
  second.Set([&] { second.welcomes = false; });
  ScriptedEngine engine;
  const auto client = StartClient(TestOptions({first.port, second.port}), engine);
  // What is condemned is told after the models, on a link that is lost by then.
  v1::MasterControl condemned;
  condemned.mutable_condemned()->set_fingerprint(std::string(32, 'f'));
  condemned.mutable_condemned()->set_remaining_ms(60'000);
  first.Send(condemned);
  v1::MasterControl load;
  load.mutable_load()->set_model("other");
  first.Send(load);
  ASSERT_TRUE(engine.WaitUntil([&] { return !engine.loads.empty(); }));
  for (const char* name : {"big", "bigger", "biggest"}) {
    ModelNews news{TestState(name, v1::MODEL_PHASE_FAILED), std::nullopt};
    news.state.set_error(std::string(size_t{3} << 20, 'e'));
    client->OnModel(std::move(news));
  }
  second.Set([&] { second.welcomes = true; });
  const auto hellos = [&] {
    return std::count_if(second.heard.begin(), second.heard.end(),
                         [](const v1::WorkerControl& said) { return said.has_hello(); });
  };
  EXPECT_TRUE(second.WaitUntil([&] { return hellos() > 1; }));
}

}  // namespace
}  // namespace fathom::worker
