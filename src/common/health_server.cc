#include "common/health_server.h"

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/metrics.h"
#include "common/strings.h"

namespace fathom {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;

constexpr int kConnectionsMax = 64;
constexpr size_t kHeaderBytesMax = 8 * 1024;
constexpr size_t kBufferBytesMax = 16 * 1024;
constexpr std::chrono::milliseconds kAcceptRetry(50);
constexpr std::chrono::seconds kIdleTimeout(10);

using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

Response Answer(const Request& request, const HealthCallbacks& callbacks) {
  Response response(http::status::ok, request.version());
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  response.keep_alive(request.keep_alive());
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    response.result(http::status::method_not_allowed);
    response.set(http::field::allow, "GET, HEAD");
    response.body() = "only GET is known here\n";
  } else if (request.target() == "/health") {
    response.body() = "ok\n";
  } else if (request.target() == "/ready") {
    const absl::Status ready = callbacks.ready ? callbacks.ready() : absl::OkStatus();
    if (!ready.ok()) response.result(http::status::service_unavailable);
    response.body() = ready.ok() ? "ready\n" : absl::StrCat(ready.message(), "\n");
  } else if (request.target() == "/metrics") {
    if (callbacks.before_metrics) callbacks.before_metrics();
    response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    response.body() = RenderMetrics();
  } else {
    response.result(http::status::not_found);
    response.body() = "here are /health, /ready and /metrics\n";
  }
  response.prepare_payload();
  if (request.method() == http::verb::head) response.body().clear();
  return response;
}

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, const HealthCallbacks& callbacks, std::atomic<int>& open)
      : stream_(std::move(socket)), callbacks_(callbacks), open_(open) {
    ++open_;
  }
  ~Session() { --open_; }

  void Read() {
    parser_.emplace();
    parser_->header_limit(kHeaderBytesMax);
    parser_->body_limit(0);
    stream_.expires_after(kIdleTimeout);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](beast::error_code error, size_t) {
                       if (!error) self->Write();
                     });
  }

 private:
  void Write() {
    response_ = Answer(parser_->get(), callbacks_);
    http::async_write(stream_, response_,
                      [self = shared_from_this()](beast::error_code error, size_t) {
                        if (!error && self->response_.keep_alive()) self->Read();
                      });
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{kBufferBytesMax};
  std::optional<http::request_parser<http::empty_body>> parser_;
  Response response_;
  const HealthCallbacks& callbacks_;
  std::atomic<int>& open_;
};

}  // namespace

class HealthServer::Impl {
 public:
  explicit Impl(HealthCallbacks callbacks)
      : callbacks_(std::move(callbacks)), acceptor_(io_), accept_retry_(io_) {}
  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start(const std::string& bind, uint16_t port) {
    boost::system::error_code error;
    const asio::ip::address address = asio::ip::make_address(bind, error);
    if (!error) {
      const tcp::endpoint endpoint(address, port);
      acceptor_.open(endpoint.protocol(), error);
      if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
      if (!error) acceptor_.bind(endpoint, error);
      if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    }
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", bind, ":", port, ": ", error.message()));
    }
    Accept();
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  uint16_t port() const { return acceptor_.local_endpoint().port(); }

 private:
  void Accept() {
    acceptor_.async_accept([this](beast::error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      // Over the limit the socket closes as it goes out of scope.
      if (!error && open_ < kConnectionsMax) {
        std::make_shared<Session>(std::move(socket), callbacks_, open_)->Read();
      }
      if (!error) return Accept();
      // Out of file descriptors, most likely: leave time for some to close.
      accept_retry_.expires_after(kAcceptRetry);
      accept_retry_.async_wait([this](beast::error_code) { Accept(); });
    });
  }

  const HealthCallbacks callbacks_;
  std::atomic<int> open_{0};  // outlives io_, whose pending sessions count down
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer accept_retry_;
  std::thread thread_;
};

HealthServer::HealthServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HealthServer::~HealthServer() = default;

absl::StatusOr<std::unique_ptr<HealthServer>> HealthServer::Start(const std::string& bind,
                                                                  uint16_t port,
                                                                  HealthCallbacks callbacks) {
  auto impl = std::make_unique<Impl>(std::move(callbacks));
  absl::Status status = impl->Start(bind, port);
  if (!status.ok()) return status;
  return std::unique_ptr<HealthServer>(new HealthServer(std::move(impl)));
}

uint16_t HealthServer::port() const { return impl_->port(); }

}  // namespace fathom
