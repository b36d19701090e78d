#include "master/api/http_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/strand.hpp>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/listen/descriptor_reserve.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "master/api/http_head.h"
#include "master/api/http_metrics.h"
#include "master/api/http_session.h"

namespace fathom::master {
namespace {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;

constexpr std::chrono::milliseconds kAcceptRetry(50);
// What the kernel takes for a client that does not read; without a bound it grows to megabytes a
// connection, out of sight of every bound of ours.
constexpr int kUnsentBytesMax = 128 * 1024;

void Configure(tcp::socket& socket) {
  boost::system::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kUnsentBytesMax,
             sizeof(kUnsentBytesMax));
}

}  // namespace

HttpServer::HttpServer(asio::io_context& io, const HttpLimits& limits, HttpHandler& handler,
                       const Clock& clock, std::function<std::string()> new_id)
    : io_(io),
      limits_(limits),
      budget_(limits.bodies_bytes),
      handler_(handler),
      clock_(clock),
      new_id_(std::move(new_id)),
      acceptor_(asio::make_strand(io)),
      accept_retry_(acceptor_.get_executor()) {}

HttpServer::~HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    asio::io_context& io, const std::string& bind, uint16_t port, const HttpLimits& limits,
    HttpHandler& handler, const Clock& clock, std::function<std::string()> new_id) {
  std::unique_ptr<HttpServer> server(new HttpServer(io, limits, handler, clock, std::move(new_id)));
  RETURN_IF_ERROR(server->Listen(bind, port));
  server->accepting_ = true;
  asio::post(server->acceptor_.get_executor(), [raw = server.get()] { raw->Accept(); });
  return server;
}

absl::Status HttpServer::Listen(const std::string& bind, uint16_t port) {
  boost::system::error_code error;
  const asio::ip::address address = asio::ip::make_address(bind, error);
  if (!error) {
    const tcp::endpoint endpoint(address, port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (!error) port_ = acceptor_.local_endpoint(error).port();
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for HTTP on ", bind, ":", port, ": ", error.message()));
  }
  return absl::OkStatus();
}

void HttpServer::Accept() {
  acceptor_.async_accept(
      asio::make_strand(io_), [this](const boost::system::error_code& error, tcp::socket socket) {
        {
          const std::lock_guard lock(mutex_);
          if (draining_) {
            accepting_ = false;
            closed_.notify_all();
            return;
          }
        }
        if (!error) {
          Adopt(std::move(socket));
          Accept();
          return;
        }
        // Out of file descriptors, most likely: leave time for some to close.
        LogWarn("http", "cannot accept a connection", {{"error.message", error.message()}});
        accept_retry_.expires_after(kAcceptRetry);
        accept_retry_.async_wait([this](const boost::system::error_code&) { Accept(); });
      });
}

void HttpServer::Adopt(tcp::socket socket) {
  boost::system::error_code error;
  const tcp::endpoint peer = socket.remote_endpoint(error);
  if (error) return;  // gone already
  Configure(socket);

  uint64_t number = 0;
  if (!IsOfReserve(socket.native_handle(), DescriptorClass::kClients)) {
    const std::lock_guard lock(mutex_);
    if (sessions_.size() < static_cast<size_t>(limits_.connections)) {
      number = next_session_++;
      sessions_[number];
    }
  }
  if (number == 0) return TurnAway(std::move(socket));
  using Session = HttpSession<tcp::socket>;
  const std::shared_ptr<Session> session(new Session(std::move(socket), peer.address().to_string(),
                                                     limits_, budget_, handler_, clock_, new_id_),
                                         [this, number](Session* gone) {
                                           delete gone;
                                           Forget(number);
                                         });
  bool draining = false;
  {
    const std::lock_guard lock(mutex_);
    sessions_[number] = session;
    draining = draining_;
  }
  session->Start();
  if (draining) session->Drain();
}

void HttpServer::TurnAway(tcp::socket socket) {
  HttpMetrics::Get().turned_away.Increment();
  HttpReply reply = handler_.Complaint({}, 503, "too many connections are open; try again");
  reply.headers.emplace_back("Retry-After", "1");
  const std::string text = FormatHead(reply, new_id_(), BodyFraming::kLength, reply.body.size(),
                                      /*keep_alive=*/false, /*http_10=*/false, clock_.Now()) +
                           reply.body;
  // Best effort: a fresh socket's buffer takes this at once.
  boost::system::error_code ignored;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(text), ignored);
}

void HttpServer::Forget(uint64_t session) {
  const std::lock_guard lock(mutex_);
  sessions_.erase(session);
  closed_.notify_all();
}

void HttpServer::ForEachSession(const std::function<void(HttpSessionBase&)>& visit) {
  std::vector<std::shared_ptr<HttpSessionBase>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [number, weak] : sessions_) {
      if (auto session = weak.lock()) all.push_back(std::move(session));
    }
  }
  for (const auto& session : all) visit(*session);
}

void HttpServer::Drain() {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(draining_, true)) return;
  }
  asio::post(acceptor_.get_executor(), [this] {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    accept_retry_.cancel();
  });
  ForEachSession([](HttpSessionBase& session) { session.Drain(); });
}

void HttpServer::Abort() {
  ForEachSession([](HttpSessionBase& session) { session.Abort(); });
}

bool HttpServer::WaitClosed(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return closed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                          [this] { return sessions_.empty() && !accepting_; });
}

}  // namespace fathom::master
