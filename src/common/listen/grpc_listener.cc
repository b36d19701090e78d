#include "common/listen/grpc_listener.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/tls/handshake_peer.h"

namespace fathom {
namespace {

constexpr std::chrono::milliseconds kRetry(50);

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  // Its IP address alone: a peer that dials again comes from another port.
  std::string Host() {
    std::array<char, NI_MAXHOST> host{};
    const int error =
        getnameinfo(get(), length, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST);
    return error == 0 ? host.data() : "unknown";
  }
};

bool Parse(const std::string& ip, uint16_t port, Address* out) {
  auto* v4 = reinterpret_cast<sockaddr_in*>(&out->storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&out->storage);
  if (inet_pton(AF_INET, ip.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    out->length = sizeof(*v4);
    return true;
  }
  if (inet_pton(AF_INET6, ip.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    out->length = sizeof(*v6);
    return true;
  }
  return false;
}

bool SetOption(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

bool MeansShort(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

GrpcListener::GrpcListener(GrpcListenerOptions options)
    : options_(std::move(options)),
      refused_(AddCounter("fathom_master_grpc_connections_refused_total",
                          "Connections over the limit, or that file descriptors are kept from",
                          {{"port", options_.name}})),
      failures_(AddCounter("fathom_master_grpc_accept_failures_total",
                           "Times that no connection could be accepted, for want of descriptors",
                           {{"port", options_.name}})),
      open_(static_cast<size_t>(options_.connections), options_.clock) {}

GrpcListener::~GrpcListener() {
  Stop();
  if (wake_ >= 0) close(wake_);
}

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Listen(GrpcListenerOptions options) {
  std::unique_ptr<GrpcListener> listener(new GrpcListener(std::move(options)));
  RETURN_IF_ERROR(listener->Bind());
  return listener;
}

absl::Status GrpcListener::Bind() {
  Address address;
  const bool parsed = Parse(options_.bind, options_.port, &address);
  const auto failed = [this](const char* why) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options_.bind, ":", options_.port, ": ", why));
  };
  if (!parsed) return failed("not an IP address");
  const int family = address.storage.ss_family;
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  listener_ = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const bool bound =
      wake_ >= 0 && listener_ >= 0 && SetOption(listener_, SOL_SOCKET, SO_REUSEADDR, 1) &&
      (family != AF_INET6 || SetOption(listener_, IPPROTO_IPV6, IPV6_V6ONLY, 0)) &&
      bind(listener_, address.get(), address.length) == 0 && listen(listener_, SOMAXCONN) == 0 &&
      getsockname(listener_, address.get(), &address.length) == 0;
  if (!bound) return failed(std::strerror(errno));
  port_ = ntohs(family == AF_INET ? reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port
                                  : reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_port);
  return absl::OkStatus();
}

void GrpcListener::AddTo(grpc::ServerBuilder& builder,
                         std::shared_ptr<grpc::ServerCredentials> credentials) {
  using Type = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  acceptor_ =
      builder.experimental().AddExternalConnectionAcceptor(Type::FROM_FD, std::move(credentials));
}

void GrpcListener::Start() {
  FATHOM_CHECK(acceptor_ != nullptr, "a gRPC listener starts without a server");
  thread_ = std::thread([this] { Run(); });
}

void GrpcListener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    FATHOM_CHECK(write(wake_, &one, sizeof(one)) == sizeof(one), "an eventfd takes no number");
    thread_.join();
  }
  if (listener_ >= 0) close(std::exchange(listener_, -1));
}

bool GrpcListener::StopsWithin(std::chrono::milliseconds wait) const {
  pollfd wake{.fd = wake_, .events = POLLIN, .revents = 0};
  return poll(&wake, 1, static_cast<int>(wait.count())) > 0;
}

void GrpcListener::Run() {
  for (;;) {
    std::array<pollfd, 2> waits{{{.fd = wake_, .events = POLLIN, .revents = 0},
                                 {.fd = listener_, .events = POLLIN, .revents = 0}}};
    poll(waits.data(), waits.size(), -1);
    if (waits[0].revents != 0) return;
    Outcome outcome = Outcome::kTaken;
    while (outcome == Outcome::kTaken && !StopsWithin(std::chrono::milliseconds(0))) {
      outcome = Accept();
    }
    // Whoever waits in the queue keeps the socket readable: leave time for something to close.
    if (outcome == Outcome::kShort && StopsWithin(kRetry)) return;
  }
}

GrpcListener::Outcome GrpcListener::Accept() {
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) {
    if (std::exchange(short_, false)) {
      LogInfo("grpc", "connections are accepted again", {{"labels.port", options_.name}});
    }
    Take(fd);
    return Outcome::kTaken;
  }
  const int error = errno;
  if (error == EAGAIN || error == EWOULDBLOCK) return Outcome::kNothing;
  // Others are those of a connection that broke in the queue.
  if (!MeansShort(error)) return Outcome::kTaken;
  failures_.Increment();
  if (!std::exchange(short_, true)) {
    LogWarn("grpc", "cannot accept connections",
            {{"labels.port", options_.name}, {"error.message", std::string(std::strerror(error))}});
  }
  return Outcome::kShort;
}

void GrpcListener::Take(int fd) {
  Address peer;
  peer.length = sizeof(peer.storage);
  // One that is gone already has no peer, and gRPC wants one.
  const bool there = getpeername(fd, peer.get(), &peer.length) == 0;
  const bool room = !IsOfReserve(fd, options_.of) && open_.Add(fd);
  if (!there || !room) {
    if (!room) refused_.Increment();
    close(fd);
    return;
  }
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (options_.unacknowledged.count() > 0) {
    SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(options_.unacknowledged.count()));
  }
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
  connection.listener_fd = -1;
  connection.fd = fd;
  const HandshakesWith marked(peer.Host());
  acceptor_->HandleNewConnection(&connection);
}

}  // namespace fathom
