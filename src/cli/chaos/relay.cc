#include "cli/chaos/relay.h"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <future>
#include <list>
#include <map>
#include <thread>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fathom::cli {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr size_t kPieceBytes = 64 * 1024;

tcp::endpoint Loopback(uint16_t port) { return {asio::ip::address_v4::loopback(), port}; }

void SendReset(tcp::socket& socket) {
  error_code ignored;
  socket.set_option(asio::socket_base::linger(true, 0), ignored);
  socket.close(ignored);
}

// A gate that bytes of one direction pass. One thread.
struct Gate {
  explicit Gate(asio::io_context& io) : opened(io) {
    opened.expires_at(asio::steady_timer::time_point::max());
  }
  void Close() { closed = true; }
  void Open() {
    closed = false;
    opened.cancel();
  }
  // Returns when it is open.
  asio::awaitable<void> Pass() {
    while (closed) {
      auto [error] = co_await opened.async_wait(kToken);
      static_cast<void>(error);  // opening cancels the wait
    }
  }

  bool closed = false;
  asio::steady_timer opened;
};

struct Connection {
  Connection(tcp::socket from, asio::io_context& io) : client(std::move(from)), target(io) {}
  tcp::socket client;
  tcp::socket target;
};

struct Group {
  explicit Group(asio::io_context& io) : to_target(io), from_target(io) {}
  Gate to_target;
  Gate from_target;
  std::unordered_set<std::shared_ptr<Connection>> connections;
};

asio::awaitable<void> Carry([[maybe_unused]] std::shared_ptr<Connection> alive, tcp::socket& from,
                            tcp::socket& to, Gate& gate) {
  std::array<char, kPieceBytes> bytes;
  while (true) {
    // Nothing is read while the gate is closed, so that an end does not get through either.
    co_await gate.Pass();
    auto [read_error, size] = co_await from.async_read_some(asio::buffer(bytes), kToken);
    co_await gate.Pass();
    if (read_error == asio::error::eof) {
      error_code ignored;
      to.shutdown(tcp::socket::shutdown_send, ignored);
      co_return;
    }
    if (read_error) {
      SendReset(to);
      co_return;
    }
    auto [write_error, written] =
        co_await asio::async_write(to, asio::buffer(bytes.data(), size), kToken);
    if (write_error) {
      SendReset(from);
      co_return;
    }
  }
}

}  // namespace

class Relay::Impl {
 public:
  Impl() : work_(io_.get_executor()), thread_([this] { io_.run(); }) {}
  ~Impl() {
    io_.stop();
    thread_.join();
  }

  absl::StatusOr<uint16_t> Open(uint16_t target_port, int group) {
    error_code error;
    tcp::acceptor acceptor(io_);
    acceptor.open(tcp::v4(), error);
    if (!error) acceptor.bind(Loopback(0), error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (error) return absl::UnavailableError(absl::StrCat("a relay's port: ", error.message()));
    const uint16_t port = acceptor.local_endpoint().port();
    OnThread([&] {
      Group& of_port = GroupOf(group);
      asio::co_spawn(io_, Accept(std::move(acceptor), target_port, of_port), asio::detached);
    });
    return port;
  }

  void Cut(int group, Direction direction) {
    OnThread([&] {
      Group& cut = GroupOf(group);
      if (direction != Direction::kFromTarget) cut.to_target.Close();
      if (direction != Direction::kToTarget) cut.from_target.Close();
    });
  }

  void Heal(int group, bool break_connections) {
    OnThread([&] {
      Group& healed = GroupOf(group);
      if (break_connections) {
        for (const std::shared_ptr<Connection>& connection : healed.connections) {
          SendReset(connection->client);
          SendReset(connection->target);
        }
      }
      healed.to_target.Open();
      healed.from_target.Open();
    });
  }

 private:
  template <typename Work>
  void OnThread(const Work& work) {
    std::promise<void> done;
    asio::post(io_, [&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }

  Group& GroupOf(int group) { return groups_.try_emplace(group, io_).first->second; }

  asio::awaitable<void> Accept(tcp::acceptor acceptor, uint16_t target_port, Group& group) {
    while (true) {
      auto [error, socket] = co_await acceptor.async_accept(kToken);
      if (error) continue;
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      auto connection = std::make_shared<Connection>(std::move(socket), io_);
      asio::co_spawn(io_, Serve(std::move(connection), target_port, group), asio::detached);
    }
  }

  asio::awaitable<void> Serve(std::shared_ptr<Connection> connection, uint16_t target_port,
                              Group& group) {
    group.connections.insert(connection);
    co_await group.to_target.Pass();
    auto [error] = co_await connection->target.async_connect(Loopback(target_port), kToken);
    if (error) {
      SendReset(connection->client);
      group.connections.erase(connection);
      co_return;
    }
    error_code ignored;
    connection->target.set_option(tcp::no_delay(true), ignored);
    asio::co_spawn(io_,
                   Carry(connection, connection->target, connection->client, group.from_target),
                   asio::detached);
    co_await Carry(connection, connection->client, connection->target, group.to_target);
    group.connections.erase(connection);
  }

  asio::io_context io_{1};
  std::map<int, Group> groups_;  // on the thread
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;
};

Relay::Relay() : impl_(std::make_unique<Impl>()) {}
Relay::~Relay() = default;

absl::StatusOr<uint16_t> Relay::Open(uint16_t target_port, int group) {
  return impl_->Open(target_port, group);
}
void Relay::Cut(int group, Direction direction) { impl_->Cut(group, direction); }
void Relay::Heal(int group, bool break_connections) { impl_->Heal(group, break_connections); }

}  // namespace fathom::cli
