// Who lets go of a link last: its channel must not end on a thread of gRPC's.

#include "worker/master_link.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>

#include "worker/hand_master_testing.h"

namespace fathom::worker {
namespace {

using Stream = ClientStream<v1::MasterControl, v1::WorkerControl>;

struct Seen : Waitable {
  template <typename Change>
  void Set(Change change) {
    With(change);
  }
  bool closed = false;
  bool may_go_on = false;
  std::optional<int64_t> holders;  // of the stream, once its handlers have gone
};

std::string AddressOf(const HandMaster& master) {
  return "127.0.0.1:" + std::to_string(master.port);
}

TEST(ClientStreamTest, GrpcLetsGoOfTheStreamBeforeWhatItsHandlersHold) {
  const HandMaster master;
  const auto stub =
      v1::Link::NewStub(grpc::CreateChannel(AddressOf(master), grpc::InsecureChannelCredentials()));
  Seen seen;
  struct Owner {
    std::shared_ptr<Stream> stream;
  };
  const auto owner = std::make_shared<Owner>();
  std::shared_ptr<Owner> held(owner.get(), [&seen, owner](Owner*) {
    seen.Set([&] { seen.holders = owner->stream.use_count(); });
  });
  owner->stream = Stream::Start(
      [&stub](auto* context, auto* reactor) { stub->async()->Control(context, reactor); }, 1 << 20,
      {.on_message = [held](const v1::MasterControl&) {},
       .on_closed = [held](const absl::Status&) {}});
  held.reset();
  owner->stream->Cancel();
  ASSERT_TRUE(seen.WaitUntil([&] { return seen.holders.has_value(); }));
  EXPECT_EQ(seen.holders, 1);
}

TEST(MasterLinkTest, ItsOwnerIsTheLastOnceGrpcHasToldAllAndNotBefore) {
  auto master = std::make_unique<HandMaster>();
  Seen seen;
  auto link =
      MasterLink::Dial(AddressOf(*master), grpc::InsecureChannelCredentials(), TestHello(), 1 << 20,
                       {.on_control = [](const v1::MasterControl&) {},
                        .on_data = [](const v1::MasterData&) {},
                        .on_bulk = [](const v1::MasterBulk&) {},
                        .on_closed =
                            [&seen](const absl::Status&) {
                              seen.Set([&] { seen.closed = true; });
                              seen.WaitUntil([&] { return seen.may_go_on; });
                            }});
  link->Open("session");
  EXPECT_FALSE(MasterLink::IsLast(link));
  master.reset();
  ASSERT_TRUE(seen.WaitUntil([&] { return seen.closed; }));
  EXPECT_FALSE(MasterLink::IsLast(link));
  seen.Set([&] { seen.may_go_on = true; });
  EXPECT_TRUE(seen.WaitUntil([&] { return MasterLink::IsLast(link); }));
}

}  // namespace
}  // namespace fathom::worker
