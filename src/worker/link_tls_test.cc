// Who may be a worker and who a master: certificates on a real link.

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/tls/authority.h"
#include "master/fleet/link_server.h"
#include "worker/link_client.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using master::LinkServer;

constexpr absl::Duration kDay = absl::Hours(24);

class LinkTlsTest : public ::testing::Test {
 protected:
  LinkTlsTest() {
    RequireTls13();
    folder_ = absl::StrCat(testing::TempDir(), "/fathom_link_tls_", getpid());
    ours_ = std::make_unique<Authority>(Authority::Create(now_, kDay).value());
    theirs_ = std::make_unique<Authority>(Authority::Create(now_, kDay).value());
    auto server = LinkServer::Start({.tls = Files(*ours_, kMasterTlsName)});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    watch_.emplace(*server_);
  }
  ~LinkTlsTest() override {
    client_.reset();
    server_->Stop();
    std::filesystem::remove_all(folder_);
  }

  TlsFiles Files(const Authority& authority, const std::string& name) {
    const std::string at = absl::StrCat(folder_, "/", ++made_);
    std::filesystem::create_directories(at);
    const TlsIdentity identity = authority.Issue(name, now_, kDay).value();
    TlsFiles files{at + "/ca.pem", at + "/cert.pem", at + "/key.pem"};
    EXPECT_TRUE(WriteFileAtomically(files.ca, authority.pem().certificate).ok());
    EXPECT_TRUE(WriteFileAtomically(files.certificate, identity.certificate).ok());
    EXPECT_TRUE(WriteFileAtomically(files.key, identity.key).ok());
    return files;
  }
  void StartClient(const TlsFiles& tls) {
    LinkClientOptions options = TestOptions({server_->port()});
    options.tls = tls;
    options.insecure = tls.empty();
    client_ = std::make_unique<LinkClient>(options);
    const absl::Status status = engine_.Serve(*client_);
    ASSERT_TRUE(status.ok()) << status;
  }
  // Long enough for dozens of dials.
  void ExpectNoLink() {
    absl::SleepFor(absl::Milliseconds(700));
    EXPECT_EQ(client_->linked(), 0);
    EXPECT_TRUE(server_->Snapshot()->workers.empty());
  }

  const absl::Time now_ = Clock::Real()->Now();
  std::string folder_;
  int made_ = 0;
  std::unique_ptr<Authority> ours_, theirs_;
  std::unique_ptr<LinkServer> server_;
  std::optional<FleetWatch> watch_;
  ScriptedEngine engine_;
  std::unique_ptr<LinkClient> client_;
};

TEST_F(LinkTlsTest, AWorkerOfTheSameCaWorks) {
  StartClient(Files(*ours_, kWorkerTlsName));
  const auto worker = watch_->WaitForReady();
  ASSERT_TRUE(worker.has_value());
  const auto listener = std::make_shared<RecordingListener>();
  ASSERT_TRUE(server_->Submit(worker->key, TestSubmission("r"), listener).ok());
  ASSERT_TRUE(engine_.WaitUntil([&] { return engine_.submitted.size() == 1; }));
  client_->OnStep({TestOutput("r", 1, 0, {4, 5}, FinishReason::kStop)});
  ASSERT_TRUE(listener->WaitUntil([&] { return listener->finishes.size() == 1; }));
  EXPECT_EQ(listener->tokens, (std::vector<TokenId>{4, 5}));
}

TEST_F(LinkTlsTest, AWorkerWithoutTlsIsNotTakenIn) {
  StartClient({});
  ExpectNoLink();
}

TEST_F(LinkTlsTest, AWorkerOfAnotherCaIsNotTakenIn) {
  TlsFiles files = Files(*theirs_, kWorkerTlsName);
  StartClient(files);
  ExpectNoLink();
}

TEST_F(LinkTlsTest, AMastersCertificateMakesNobodyAWorker) {
  // What the client would refuse to start with is dialled by hand.
  const TlsFiles files = Files(*ours_, kMasterTlsName);
  ASSERT_FALSE(CheckTlsFiles(files, kWorkerTlsName, now_).ok());
  grpc::ChannelArguments arguments;
  arguments.SetSslTargetNameOverride(kMasterTlsName);
  const auto stub = v1::Link::NewStub(grpc::CreateCustomChannel(
      absl::StrCat("127.0.0.1:", server_->port()), LinkChannelCredentials(files), arguments));
  grpc::ClientContext context;
  const auto stream = stub->Control(&context);
  v1::WorkerControl hello;
  *hello.mutable_hello() = TestHello();
  hello.mutable_hello()->set_protocol(1);
  stream->Write(hello);
  v1::MasterControl answer;
  EXPECT_FALSE(stream->Read(&answer));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(server_->Snapshot()->workers.empty());
}

// Whoever has a worker's key cannot make other workers send it their tokens.
TEST_F(LinkTlsTest, AWorkersCertificateMakesNobodyAMaster) {
  int port = 0;
  v1::Link::Service service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", LinkServerCredentials(Files(*ours_, kWorkerTlsName)),
                           &port);
  builder.RegisterService(&service);
  const auto fake = builder.BuildAndStart();
  ASSERT_NE(fake, nullptr);
  grpc::ChannelArguments arguments;
  arguments.SetSslTargetNameOverride(kMasterTlsName);
  const auto stub = v1::Link::NewStub(
      grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                LinkChannelCredentials(Files(*ours_, kWorkerTlsName)), arguments));
  grpc::ClientContext context;
  const auto stream = stub->Control(&context);
  v1::MasterControl answer;
  EXPECT_FALSE(stream->Read(&answer));
  // A fake that were taken for a master would say that it does not serve this.
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(LinkTlsTest, FilesThatDoNotServeEndTheStart) {
  LinkClientOptions options = TestOptions({server_->port()});
  options.insecure = false;
  options.tls = Files(*ours_, kMasterTlsName);
  EXPECT_EQ(LinkClient(options).Start(engine_.Port()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(LinkServer::Start({.tls = Files(*ours_, kWorkerTlsName)}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fathom::worker
