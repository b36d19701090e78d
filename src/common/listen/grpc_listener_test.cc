#include "common/listen/grpc_listener.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "fathom/v1/admin.grpc.pb.h"

namespace fathom {
namespace {

// The process may open descriptors below `max` alone, until this goes.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t max) {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit low{.rlim_cur = max, .rlim_max = before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &low);
  }
  ~DescriptorLimit() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

// A connection that says nothing.
class Idle {
 public:
  Idle() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval limit{.tv_sec = 10, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  }
  Idle(Idle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Idle& operator=(Idle&&) = delete;
  ~Idle() {
    if (fd_ >= 0) close(fd_);
  }
  bool Connect(uint16_t port) const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  // Waits for the server's first bytes, its HTTP/2 settings: false when it closed instead.
  bool Greeted() const {
    std::array<char, 64> bytes;
    return recv(fd_, bytes.data(), bytes.size(), 0) > 0;
  }

 private:
  int fd_;
};

class GrpcListenerTest : public testing::Test {
 protected:
  void Start(GrpcListenerOptions options) {
    options.name = testing::UnitTest::GetInstance()->current_test_info()->name();
    options.bind = "127.0.0.1";
    auto listener = GrpcListener::Listen(options);
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    grpc::ServerBuilder builder;
    listener_->AddTo(builder, grpc::InsecureServerCredentials());
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    listener_->Start();
  }
  void TearDown() override {
    if (listener_ != nullptr) listener_->Stop();
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  }

  // The service implements nothing, which it says to those that reach it.
  bool Serves() const {
    grpc::ChannelArguments own;
    own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    own.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
    own.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 20);
    const auto channel = grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", listener_->port()),
                                                   grpc::InsecureChannelCredentials(), own);
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::ListWorkersResponse response;
    const grpc::Status status = v1::Admin::NewStub(channel)->ListWorkers(&context, {}, &response);
    return status.error_code() == grpc::StatusCode::UNIMPLEMENTED;
  }

  static double Counted(const std::string& family) {
    const std::string line = absl::StrCat(
        family, "{port=\"", testing::UnitTest::GetInstance()->current_test_info()->name(), "\"} ");
    const std::string all = RenderMetrics();
    const size_t at = all.find(line);
    return at == std::string::npos ? -1 : std::atof(all.c_str() + at + line.size());
  }
  static bool WaitFor(const std::function<bool()>& condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return condition();
  }

  v1::Admin::Service service_;
  std::unique_ptr<GrpcListener> listener_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(GrpcListenerTest, TakesAsManyAsMayBeAndForgetsThoseThatClosed) {
  Start({.connections = 3});
  std::vector<Idle> idle(3);
  for (Idle& connection : idle) {
    ASSERT_TRUE(connection.Connect(listener_->port()));
    EXPECT_TRUE(connection.Greeted());
  }
  const Idle extra;
  ASSERT_TRUE(extra.Connect(listener_->port()));
  EXPECT_FALSE(extra.Greeted());
  EXPECT_EQ(Counted("fathom_master_grpc_connections_refused_total"), 1);
  idle.clear();
  EXPECT_TRUE(Serves());
}

TEST_F(GrpcListenerTest, AcceptsAgainWhenThereAreDescriptorsAgain) {
  Start({});
  ASSERT_TRUE(Serves());
  const Idle early;
  {
    const DescriptorLimit none(3);
    ASSERT_TRUE(early.Connect(listener_->port()));
    EXPECT_TRUE(WaitFor([] { return Counted("fathom_master_grpc_accept_failures_total") >= 2; }));
  }
  EXPECT_TRUE(early.Greeted());
  EXPECT_TRUE(Serves());
}

TEST_F(GrpcListenerTest, LeavesDescriptorsToOthers) {
  // Below it, of 1000: what clients may use, then what peers may use.
  const DescriptorLimit limit(1000);
  EXPECT_FALSE(IsOfReserve(749, DescriptorClass::kClients));
  EXPECT_TRUE(IsOfReserve(750, DescriptorClass::kClients));
  EXPECT_FALSE(IsOfReserve(874, DescriptorClass::kPeers));
  EXPECT_TRUE(IsOfReserve(875, DescriptorClass::kPeers));

  Start({});
  ASSERT_TRUE(Serves());
  std::vector<Idle> others(745);
  const Idle late;
  ASSERT_TRUE(late.Connect(listener_->port()));
  EXPECT_FALSE(late.Greeted());
  others.clear();
  EXPECT_TRUE(Serves());
}

TEST_F(GrpcListenerTest, APortThatIsTakenIsNamed) {
  Start({});
  const auto second =
      GrpcListener::Listen({.name = "second", .bind = "127.0.0.1", .port = listener_->port()});
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_TRUE(absl::StrContains(second.status().message(), absl::StrCat(listener_->port())));
  EXPECT_TRUE(absl::IsUnavailable(GrpcListener::Listen({.bind = "nowhere"}).status()));
}

TEST_F(GrpcListenerTest, StopsAndLetsThePortGo) {
  Start({});
  const uint16_t port = listener_->port();
  ASSERT_TRUE(Serves());
  listener_->Stop();
  EXPECT_FALSE(Idle().Connect(port));
}

}  // namespace
}  // namespace fathom
