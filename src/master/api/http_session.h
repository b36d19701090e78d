#pragma once

// One HTTP/1 connection: reads requests one after another, hands each to the handler, writes the
// answer. A template on the stream, so that TLS is another stream and nothing else. Everything
// happens on the strand of the stream's executor.
//
// While an answer is under way a read is kept pending: it notices a client that went away, and what
// a pipelining client sends meanwhile becomes the beginning of the next request.
//
// Arguments of every co_await are named locals, and no coroutine is a capturing lambda: g++ 12
// miscompiles both.

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/stream_traits.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/clock.h"
#include "master/api/http_exchange.h"
#include "master/api/http_head.h"
#include "master/api/http_limits.h"

namespace fathom::master {

// What the server knows of a session, whatever its stream.
class HttpSessionBase {
 public:
  virtual ~HttpSessionBase() = default;
  // From any thread. Drain: no further request after the current one. Abort: close now.
  virtual void Drain() = 0;
  virtual void Abort() = 0;
};

template <class Stream>
class HttpSession final : public HttpSessionBase,
                          public std::enable_shared_from_this<HttpSession<Stream>> {
 public:
  // All references outlive it; `new_id` makes request ids.
  HttpSession(Stream stream, std::string peer, const HttpLimits& limits, BodyBudget& budget,
              HttpHandler& handler, const Clock& clock, std::function<std::string()> new_id)
      : stream_(std::move(stream)),
        peer_(std::move(peer)),
        limits_(limits),
        budget_(budget),
        handler_(handler),
        clock_(clock),
        new_id_(std::move(new_id)),
        buffer_(kPipelinedBytesMax + kReadBytes),
        watchdog_(stream_.get_executor()),
        arrival_(stream_.get_executor()) {}

  void Start() {
    boost::asio::co_spawn(stream_.get_executor(), Run(this->shared_from_this()),
                          boost::asio::detached);
  }
  void Drain() override {
    boost::asio::post(stream_.get_executor(), [self = this->shared_from_this()] {
      self->draining_ = true;
      if (self->idle_) self->CloseNow();
    });
  }
  void Abort() override {
    boost::asio::post(stream_.get_executor(),
                      [self = this->shared_from_this()] { self->CloseNow(); });
  }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using Duration = std::chrono::steady_clock::duration;
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr auto kToken = boost::asio::as_tuple(boost::asio::use_awaitable);
  static constexpr size_t kReadBytes = 16 * 1024;
  static constexpr size_t kIdleReadBytes = 1024;  // there may be thousands that say nothing
  static constexpr size_t kPipelinedBytesMax = 256 * 1024;

  // `self` keeps the session alive as long as it runs.
  static boost::asio::awaitable<void> Run(std::shared_ptr<HttpSession> self) {
    bool more = true;
    while (more && !self->draining_) {
      more = co_await self->WaitForRequest();
      if (more) more = co_await self->Serve();
    }
    self->watchdog_.cancel();
    co_await self->LingeringClose();
  }

  // True once there is at least a byte of a request.
  boost::asio::awaitable<bool> WaitForRequest() {
    idle_ = true;
    Guard(limits_.idle);
    while (buffer_.size() == 0 && !peer_closed_ && !timed_out_) {
      Watch();
      arrival_.expires_at(TimePoint::max());
      if (watching_) co_await arrival_.async_wait(kToken);
    }
    idle_ = false;
    co_return buffer_.size() > 0 && !timed_out_ && !peer_closed_;
  }

  // Reads one request and answers it. True: the connection may carry another.
  boost::asio::awaitable<bool> Serve() {
    const int64_t started_ns = clock_.MonotonicNs();
    Parser parser;
    parser.header_limit(limits_.header_bytes);
    parser.body_limit(limits_.body_bytes);
    HttpCall call;
    call.peer = peer_;
    auto exchange = std::make_shared<HttpExchange>(stream_.get_executor());
    Guard(limits_.header);
    co_await StopWatching();
    auto [head_error, head_bytes] =
        co_await boost::beast::http::async_read_header(stream_, buffer_, parser, kToken);
    // Beast holds the request line and the fields to the limit, each by itself when they come at
    // once.
    if (!head_error && head_bytes > limits_.header_bytes) {
      head_error = boost::beast::http::error::header_limit;
    }
    std::optional<HttpReply> refusal;
    http_10_ = parser.is_header_done() && parser.get().version() < 11;
    keep_alive_ = parser.is_header_done() && parser.keep_alive() && !draining_;
    if (head_error) {
      if (!timed_out_ && !ParseFailed(head_error)) co_return false;
      DescribePart(parser, call);
      refusal = Complain(head_error, call, *exchange);
    } else {
      Describe(parser, call);
      refusal = RefuseCoding(call, *exchange);
      if (!refusal) refusal = handler_.Admit(call, exchange->record());
    }
    if (call.request_id.empty()) call.request_id = new_id_();
    BodyBudget::Share share;
    if (!refusal && !parser.is_done()) {
      share = budget_.Take(parser.content_length_remaining().value_or(0));
      if (!share) refusal = RefuseBody(call, *exchange);
    }
    if (!refusal && !parser.is_done()) {
      const bool sent = co_await ContinueIfAsked(parser);
      if (!sent) co_return false;
      Guard(limits_.body);
      parser.eager(true);  // all that has come, not a chunk at a time
      while (!parser.is_done()) {
        // A chunked body shows its length only as it comes, a buffer at most at a time.
        if (parser.chunked() && !share.Cover(parser.get().body().size() + buffer_.max_size())) {
          refusal = RefuseBody(call, *exchange);
          break;
        }
        auto [body_error, body_bytes] =
            co_await boost::beast::http::async_read_some(stream_, buffer_, parser, kToken);
        if (!body_error) continue;
        if (!timed_out_ && !ParseFailed(body_error)) co_return false;
        refusal = Complain(body_error, call, *exchange);
        break;
      }
    }
    if (refusal) {
      // What is left of the body would be read as the next request.
      if (!parser.is_done()) keep_alive_ = false;
      exchange->Reply(*std::move(refusal));
    } else {
      HttpCall handed = call;  // the rest is wanted for the record, the body only once
      handed.body = std::move(parser.get().body());
      exchange_ = exchange;
      handler_.Handle(std::move(handed), exchange);
    }
    const int status = co_await Answer(call, *exchange);
    exchange_ = nullptr;
    exchange->Close();
    handler_.Done(call, status, clock_.MonotonicNs() - started_ns, exchange->record());
    co_return keep_alive_ && !peer_closed_ && !timed_out_;
  }

  void Describe(Parser& parser, HttpCall& call) {
    auto& message = parser.get();
    call.method = message.method();
    call.path = PathOf({message.target().data(), message.target().size()});
    const auto id = message["x-request-id"];
    call.request_id = UsableRequestId({id.data(), id.size()});
    call.headers = message.base();
    call.http_10 = http_10_;
  }

  // Of a head that could not be read to its end: a refusal, too, is in the form of its place.
  void DescribePart(Parser& parser, HttpCall& call) {
    const auto& message = parser.get();
    const auto unread = buffer_.cdata();
    std::string_view target(message.target().data(), message.target().size());
    if (target.empty()) target = TargetOf({static_cast<const char*>(unread.data()), unread.size()});
    call.method = message.method();
    call.path = PathOf(target);
  }

  HttpReply RefuseBody(const HttpCall& call, HttpExchange& exchange) {
    return Refuse(call, exchange, 503, "too many bodies are being read; try again");
  }

  HttpReply Refuse(const HttpCall& call, HttpExchange& exchange, int status,
                   std::string_view message) {
    exchange.record().error = message;
    return handler_.Complaint(call, status, message);
  }

  // What follows such a head cannot be told to be its body or a request, so it is the last.
  std::optional<HttpReply> RefuseCoding(const HttpCall& call, HttpExchange& exchange) {
    const absl::Status coding = CheckTransferCoding(call.headers, http_10_);
    if (coding.ok()) return std::nullopt;
    keep_alive_ = false;
    return Refuse(call, exchange, absl::IsUnimplemented(coding) ? 501 : 400,
                  std::string(coding.message()));
  }

  static bool ParseFailed(const boost::system::error_code& error) {
    return error.category() == make_error_code(boost::beast::http::error::bad_method).category() &&
           error != boost::beast::http::error::end_of_stream &&
           error != boost::beast::http::error::partial_message;
  }

  HttpReply Complain(const boost::system::error_code& error, const HttpCall& call,
                     HttpExchange& exchange) {
    keep_alive_ = false;
    if (timed_out_) {
      timed_out_ = false;  // there is still an answer to write
      return Refuse(call, exchange, 408, "the request did not arrive in time");
    }
    if (error == boost::beast::http::error::header_limit) {
      return Refuse(call, exchange, 431, "the request's header is too large");
    }
    // A line that may stand between chunks, or after them, did not end within the buffer.
    if (error == boost::beast::http::error::buffer_overflow) {
      return Refuse(call, exchange, 431, "a chunk's extension or the trailer is too large");
    }
    if (error == boost::beast::http::error::body_limit) {
      return Refuse(call, exchange, 413, "the request's body is too large");
    }
    return Refuse(call, exchange, 400, "malformed HTTP: " + error.message());
  }

  boost::asio::awaitable<bool> ContinueIfAsked(const Parser& parser) {
    const auto expect = parser.get()[boost::beast::http::field::expect];
    if (http_10_ || !boost::beast::iequals(expect, "100-continue")) co_return true;
    const std::string line = "HTTP/1.1 100 Continue\r\n\r\n";
    co_return co_await Write(line);
  }

  // Writes the answer when it comes; the status it had, 499 when the client went away first.
  boost::asio::awaitable<int> Answer(const HttpCall& call, HttpExchange& exchange) {
    Guard(Duration::max());
    while (!exchange.reply() && !exchange.gone()) {
      Watch();
      exchange.signal().expires_at(TimePoint::max());
      co_await exchange.signal().async_wait(kToken);
    }
    if (exchange.gone()) co_return 499;
    const bool is_head = call.method == boost::beast::http::verb::head;
    if (exchange.streaming()) {
      const bool sent = co_await AnswerStream(call, exchange);
      co_return sent ? exchange.reply()->status : 499;
    }
    const HttpReply& reply = *exchange.reply();
    keep_alive_ = keep_alive_ && MayGoOn();
    std::string text = FormatHead(reply, call.request_id, BodyFraming::kLength, reply.body.size(),
                                  keep_alive_, http_10_, clock_.Now());
    // Both state the length of what they leave out.
    if (!is_head && reply.status != 304) text += reply.body;
    const bool sent = co_await Write(text);
    co_return sent ? reply.status : 499;
  }

  // The connection takes another request after this one.
  bool MayGoOn() const {
    return !draining_ && std::chrono::steady_clock::now() - begun_ < limits_.age;
  }

  boost::asio::awaitable<bool> AnswerStream(const HttpCall& call, HttpExchange& exchange) {
    const BodyFraming framing = http_10_ ? BodyFraming::kUntilClose : BodyFraming::kChunked;
    keep_alive_ = keep_alive_ && !http_10_ && MayGoOn();
    std::string out = FormatHead(*exchange.reply(), call.request_id, framing, 0, keep_alive_,
                                 http_10_, clock_.Now());
    const std::shared_ptr<BodySource> source = exchange.source();
    while (!exchange.gone()) {
      std::string payload;
      const BodySource::State state = source->Pull(payload);
      if (!payload.empty()) out += http_10_ ? payload : FormatChunk(payload);
      if (state == BodySource::State::kEnd && !http_10_) out += kLastChunk;
      if (state == BodySource::State::kBroken) keep_alive_ = false;
      const bool writes = !out.empty();
      if (writes) {
        const bool sent = co_await Write(out);
        if (!sent) break;
        out.clear();
      }
      if (state != BodySource::State::kMore) co_return true;
      // More may have come while it was written, be it but the head or a ping: nobody waited for
      // that wake.
      if (writes) continue;
      Watch();
      exchange.signal().expires_after(limits_.ping);
      auto [woken] = co_await exchange.signal().async_wait(kToken);
      if (!woken) out = http_10_ ? std::string(source->Ping()) : FormatChunk(source->Ping());
    }
    keep_alive_ = false;
    co_return false;
  }

  // False, after telling the exchange, when it cannot be written in time.
  boost::asio::awaitable<bool> Write(const std::string& text) {
    Guard(limits_.write);
    const auto buffer = boost::asio::buffer(text);
    auto [error, bytes] = co_await boost::asio::async_write(stream_, buffer, kToken);
    Guard(Duration::max());
    if (!error) co_return true;
    keep_alive_ = false;
    if (exchange_ != nullptr) {
      exchange_->Gone(WhyGone());
    }
    co_return false;
  }

  // Keeps a read pending.
  void Watch() {
    if (watching_ || peer_closed_ || buffer_.size() >= kPipelinedBytesMax) return;
    watching_ = true;
    stream_.async_read_some(
        buffer_.prepare(idle_ ? kIdleReadBytes : kReadBytes),
        [self = this->shared_from_this()](const boost::system::error_code& error, size_t bytes) {
          self->watching_ = false;
          self->buffer_.commit(bytes);
          if (error && !self->stopping_watch_) {
            self->peer_closed_ = true;
            const std::shared_ptr<HttpExchange> exchange = self->exchange_;
            if (exchange != nullptr) exchange->Gone(self->WhyGone());
          } else if (self->exchange_ != nullptr) {
            self->Watch();
          }
          self->arrival_.cancel();
        });
  }

  // The pending read of the last answer must not compete with the parser's.
  boost::asio::awaitable<void> StopWatching() {
    stopping_watch_ = true;
    boost::system::error_code ignored;
    if (watching_) boost::beast::get_lowest_layer(stream_).cancel(ignored);
    while (watching_) {
      arrival_.expires_at(TimePoint::max());
      co_await arrival_.async_wait(kToken);
    }
    stopping_watch_ = false;
  }

  absl::Status WhyGone() const {
    return absl::CancelledError(timed_out_ ? "the client read too slowly" : "the client went away");
  }

  // From now on, that long until what is pending is cancelled. One timer runs; moving the deadline
  // later costs nothing.
  void Guard(Duration limit) {
    const TimePoint now = std::chrono::steady_clock::now();
    deadline_ = limit == Duration::max() ? TimePoint::max() : now + limit;
    if (deadline_ < armed_until_) Arm();
  }

  void Arm() {
    armed_until_ = deadline_;
    watchdog_.expires_at(deadline_);
    watchdog_.async_wait([weak = this->weak_from_this()](const boost::system::error_code& error) {
      const std::shared_ptr<HttpSession> self = weak.lock();
      if (error || self == nullptr) return;
      self->armed_until_ = TimePoint::max();
      if (std::chrono::steady_clock::now() < self->deadline_) {
        if (self->deadline_ != TimePoint::max()) self->Arm();
        return;
      }
      self->timed_out_ = true;
      boost::system::error_code ignored;
      boost::beast::get_lowest_layer(self->stream_).cancel(ignored);
    });
  }

  void CloseNow() {
    timed_out_ = true;
    keep_alive_ = false;
    boost::system::error_code ignored;
    boost::beast::get_lowest_layer(stream_).close(ignored);
    const std::shared_ptr<HttpExchange> exchange = exchange_;
    if (exchange != nullptr) exchange->Gone(absl::UnavailableError("the server is shutting down"));
    arrival_.cancel();
  }

  // Closing with unread data would reset the connection, and the client might never see the answer.
  boost::asio::awaitable<void> LingeringClose() {
    auto& socket = boost::beast::get_lowest_layer(stream_);
    boost::system::error_code ignored;
    socket.shutdown(boost::asio::ip::tcp::socket::shutdown_send, ignored);
    timed_out_ = false;
    Guard(limits_.linger);
    size_t left = kPipelinedBytesMax;
    while (!peer_closed_ && !timed_out_ && left > 0) {
      if (!watching_) buffer_.clear();
      Watch();
      arrival_.expires_at(TimePoint::max());
      if (watching_) co_await arrival_.async_wait(kToken);
      left -= std::min(left, buffer_.size());
    }
    watchdog_.cancel();
    socket.close(ignored);
  }

  Stream stream_;
  const std::string peer_;
  const HttpLimits& limits_;
  BodyBudget& budget_;
  HttpHandler& handler_;
  const Clock& clock_;
  const std::function<std::string()> new_id_;
  boost::beast::flat_buffer buffer_;  // bounded: a parser asks for more as long as a line goes on
  std::shared_ptr<HttpExchange> exchange_;  // while an answer is under way

  const TimePoint begun_ = std::chrono::steady_clock::now();
  boost::asio::steady_timer watchdog_;
  TimePoint deadline_ = TimePoint::max();
  TimePoint armed_until_ = TimePoint::max();
  boost::asio::steady_timer arrival_;  // cancelled when a pending read ends
  bool watching_ = false;
  bool stopping_watch_ = false;
  bool peer_closed_ = false;
  bool timed_out_ = false;
  bool idle_ = true;
  bool draining_ = false;
  bool keep_alive_ = false;
  bool http_10_ = false;
};

}  // namespace fathom::master
