// News of the prefix cache over the real link.

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "fathom/v1/link.grpc.pb.h"
#include "master/fleet/link_server.h"
#include "worker/link_client.h"
#include "worker/link_messages.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using master::CacheUpdate;
using master::LinkServer;
using master::WorkerKey;

// What a master has heard of the caches of its workers.
class CacheWatch : public Waitable {
 public:
  explicit CacheWatch(master::Fleet& fleet) {
    fleet.OnCacheUpdate([this](const WorkerKey& worker, const CacheUpdate& update) {
      With([&] {
        BlockNameSet& names = held[worker.incarnation];
        if (update.resync_begins) ++resyncs;
        for (const Hash128& name : update.evicted) names.erase(name);
        names.insert(update.stored.begin(), update.stored.end());
      });
    });
  }
  std::map<std::string, BlockNameSet> held;
  int resyncs = 0;
};

v1::Hello NamedHello(char incarnation = 'a') {
  v1::Hello hello = TestHello("w1", incarnation);
  hello.mutable_models(0)->set_kv_scope("scope");
  return hello;
}

BlockNameSet Names(std::initializer_list<uint64_t> ids) {
  BlockNameSet names;
  for (const uint64_t id : ids) names.insert({id, id});
  return names;
}

void Change(ScriptedEngine& engine, const BlockNameSet& stored, const BlockNameSet& evicted) {
  engine.Set([&] {
    engine.cache_changes = {{stored.begin(), stored.end()}, {evicted.begin(), evicted.end()}};
  });
}

class LinkCacheTest : public testing::Test {
 protected:
  LinkCacheTest() {
    auto server = LinkServer::Start({.insecure = true});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    watch_.emplace(*server_);
  }
  ~LinkCacheTest() override {
    client_.reset();
    server_->Stop();
  }
  void StartClient(const v1::Hello& hello) {
    client_ = std::make_unique<LinkClient>(TestOptions({server_->port()}, hello));
    ASSERT_TRUE(engine_.Serve(*client_, hello.models(0)).ok());
  }
  bool Holds(const BlockNameSet& names, char incarnation = 'a') {
    const std::string hex = absl::BytesToHexString(std::string(16, incarnation));
    return watch_->WaitUntil([&] { return watch_->held[hex] == names; });
  }

  ScriptedEngine engine_;
  std::unique_ptr<LinkServer> server_;
  std::optional<CacheWatch> watch_;
  std::unique_ptr<LinkClient> client_;
};

TEST_F(LinkCacheTest, AMasterHearsWhatThereIsAndWhatChanges) {
  Change(engine_, Names({1, 2, 3}), {});
  StartClient(NamedHello());
  EXPECT_TRUE(Holds(Names({1, 2, 3})));
  Change(engine_, Names({4}), Names({2}));
  EXPECT_TRUE(Holds(Names({1, 3, 4})));
  EXPECT_EQ(watch_->resyncs, 1);
}

TEST_F(LinkCacheTest, AMasterThatComesLaterHearsTheWhole) {
  StartClient(NamedHello());
  Change(engine_, Names({1, 2}), {});
  EXPECT_TRUE(Holds(Names({1, 2})));
  const int port = server_->port();
  server_->Stop();
  watch_.reset();
  master::LinkServerOptions options;
  options.port = port;
  options.insecure = true;
  auto server = LinkServer::Start(std::move(options));
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  watch_.emplace(*server_);
  EXPECT_TRUE(Holds(Names({1, 2})));
}

TEST_F(LinkCacheTest, AWorkerWithoutNamesIsNotAsked) {
  Change(engine_, Names({1}), {});
  StartClient(TestHello());
  FleetWatch ready(*server_);
  ASSERT_TRUE(ready.WaitForReady().has_value());
  Change(engine_, Names({2}), {});
  // Once the next change has been taken from the engine, the former would have been told.
  ASSERT_TRUE(engine_.WaitUntil([&] { return engine_.cache_changes.empty(); }));
  EXPECT_EQ(watch_->resyncs, 0);
}

TEST_F(LinkCacheTest, NamesThatAreNoneEndTheLink) {
  const auto stub = v1::Link::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string(server_->port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext control_context;
  const auto control = stub->Control(&control_context);
  v1::WorkerControl hello;
  *hello.mutable_hello() = NamedHello();
  hello.mutable_hello()->set_protocol(kLinkProtocol);
  control->Write(hello);
  v1::MasterControl welcome;
  ASSERT_TRUE(control->Read(&welcome));

  grpc::ClientContext bulk_context;
  const auto bulk = stub->Bulk(&bulk_context);
  v1::WorkerBulk message;
  message.set_session_id(welcome.welcome().session_id());
  bulk->Write(message);
  v1::MasterBulk asked;
  ASSERT_TRUE(bulk->Read(&asked));
  EXPECT_EQ(asked.resync_page(), 0u);
  message.mutable_kv_events()->set_sequence(1);
  message.mutable_kv_events()->add_stored("short");
  bulk->Write(message);
  while (bulk->Read(&asked)) {
  }
  EXPECT_FALSE(bulk->Finish().ok());
  while (control->Read(&welcome)) {
  }
  control_context.TryCancel();
  static_cast<void>(control->Finish());
  FleetWatch gone(*server_);
  EXPECT_TRUE(gone.WaitForEmpty());
}

}  // namespace
}  // namespace fathom::worker
