#pragma once

// A connection without a socket: what the client sends is all there from the start, in pieces, and
// its end comes when the test says so. Everything happens on one thread, in the order of its
// executor's queue, so that a run is the same each time.

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/socket_base.hpp>
#include <boost/system/error_code.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "common/check.h"

namespace fathom::fuzz {

// The two ends' shared state.
struct Wire {
  std::deque<std::string_view> incoming;
  std::string written;
  bool ended = false;   // the client has closed
  bool shut = false;    // the server has said that it writes no more
  bool closed = false;  // the server has closed
  std::function<void(boost::system::error_code)> pending_read;  // empty: none

  // The client closes. A read that waits ends.
  void End() {
    ended = true;
    Wake(boost::asio::error::eof);
  }
  void Wake(boost::system::error_code error) {
    if (pending_read) std::exchange(pending_read, nullptr)(error);
  }
};

class FakeStream {
 public:
  using executor_type = boost::asio::any_io_executor;
  using Error = boost::system::error_code;

  FakeStream(executor_type executor, std::shared_ptr<Wire> wire)
      : executor_(std::move(executor)), wire_(std::move(wire)) {}

  executor_type get_executor() const { return executor_; }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    const boost::asio::mutable_buffer into = *boost::asio::buffer_sequence_begin(buffers);
    return boost::asio::async_initiate<Token, void(Error, size_t)>(
        [this, into](auto handler) { this->Read(into, std::move(handler)); }, token);
  }

  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    FATHOM_CHECK(!wire_->shut && !wire_->closed, "written after the end");
    const boost::asio::const_buffer from = *boost::asio::buffer_sequence_begin(buffers);
    wire_->written.append(static_cast<const char*>(from.data()), from.size());
    return boost::asio::async_initiate<Token, void(Error, size_t)>(
        [this, size = from.size()](auto handler) { this->Complete(std::move(handler), {}, size); },
        token);
  }

  void cancel(Error& error) {
    error = {};
    wire_->Wake(boost::asio::error::operation_aborted);
  }
  void shutdown(boost::asio::socket_base::shutdown_type, Error& error) {
    error = {};
    wire_->shut = true;
  }
  void close(Error& error) {
    wire_->closed = true;
    cancel(error);
  }

 private:
  template <typename Handler>
  void Complete(Handler handler, Error error, size_t size) {
    boost::asio::post(executor_, [handler = std::move(handler), error, size]() mutable {
      std::move(handler)(error, size);
    });
  }

  template <typename Handler>
  void Read(boost::asio::mutable_buffer into, Handler handler) {
    FATHOM_CHECK(!wire_->pending_read, "two reads at once");
    if (wire_->closed) return Complete(std::move(handler), boost::asio::error::bad_descriptor, 0);
    if (!wire_->incoming.empty()) {
      std::string_view& piece = wire_->incoming.front();
      const size_t size = boost::asio::buffer_copy(into, boost::asio::buffer(piece));
      piece.remove_prefix(size);
      if (piece.empty()) wire_->incoming.pop_front();
      return Complete(std::move(handler), {}, size);
    }
    if (wire_->ended) return Complete(std::move(handler), boost::asio::error::eof, 0);
    auto kept = std::make_shared<Handler>(std::move(handler));
    wire_->pending_read = [this, kept](Error error) { Complete(std::move(*kept), error, 0); };
  }

  const executor_type executor_;
  const std::shared_ptr<Wire> wire_;
};

}  // namespace fathom::fuzz
