#pragma once

// Listens for HTTP and runs a session per connection, with a limit on how many. Start, Drain, Stop
// by the owner; the I/O threads are the owner's too and outlive it.

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "master/api/http_exchange.h"
#include "master/api/http_limits.h"

namespace fathom::master {

class HttpSessionBase;

class HttpServer {
 public:
  // `port` 0 is any free one. `io` must be running (or run soon) on one or more threads. Errors
  // name the address.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(boost::asio::io_context& io,
                                                           const std::string& bind, uint16_t port,
                                                           const HttpLimits& limits,
                                                           HttpHandler& handler, const Clock& clock,
                                                           std::function<std::string()> new_id);
  // REQUIRES: WaitClosed returned true, or the I/O threads have ended.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const { return port_; }
  // No new connections; idle ones close, busy ones after their answer.
  void Drain();
  // Closes every connection now.
  void Abort();
  // True when no connection is left.
  bool WaitClosed(absl::Duration timeout);

 private:
  using Acceptor = boost::asio::ip::tcp::acceptor;
  HttpServer(boost::asio::io_context& io, const HttpLimits& limits, HttpHandler& handler,
             const Clock& clock, std::function<std::string()> new_id);
  absl::Status Listen(const std::string& bind, uint16_t port);
  void Accept();
  void Adopt(boost::asio::ip::tcp::socket socket);
  void TurnAway(boost::asio::ip::tcp::socket socket);
  void Forget(uint64_t session);
  void ForEachSession(const std::function<void(HttpSessionBase&)>& visit);

  boost::asio::io_context& io_;
  const HttpLimits limits_;
  BodyBudget budget_;
  HttpHandler& handler_;
  const Clock& clock_;
  const std::function<std::string()> new_id_;
  Acceptor acceptor_;
  boost::asio::steady_timer accept_retry_;
  uint16_t port_ = 0;

  std::mutex mutex_;
  std::condition_variable closed_;
  // State below is protected by mutex_.
  bool draining_ = false;
  bool accepting_ = false;
  uint64_t next_session_ = 1;
  std::unordered_map<uint64_t, std::weak_ptr<HttpSessionBase>> sessions_;
};

}  // namespace fathom::master
