#include "cli/load/http_transport.h"

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
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/chat_client.h"
#include "cli/load/openai_stream.h"
#include "cli/load/requests.h"
#include "common/clock.h"
#include "common/strings.h"
#include "common/version.h"

namespace fathom::cli {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using tcp = asio::ip::tcp;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 16 * 1024;
constexpr size_t kBodyMax = size_t{16} << 20;  // of errors and whole answers

int64_t NowNs() { return Clock::Real()->MonotonicNs(); }

// A connection and what is known of the request on it. Everything happens on the socket's strand.
struct Connection {
  explicit Connection(asio::io_context& io)
      : socket(asio::make_strand(io)), timer(socket.get_executor()) {}
  tcp::socket socket;
  asio::steady_timer timer;
  bool fresh = true;  // carried no request yet
  bool timed_out = false;
  bool cancelled = false;
};

struct Job {
  std::shared_ptr<Connection> connection;
  std::string request;  // head and body
  AnswerMeter meter;
  AnswerSink sink;
};

// What came of one attempt on one connection.
struct Outcome {
  absl::Status status;
  bool got_bytes = false;
  bool keep = false;  // the connection may carry another request
};

class HttpTransport final : public LoadTransport {
 public:
  HttpTransport(HttpTransportOptions options, std::vector<tcp::endpoint> endpoints)
      : options_(std::move(options)),
        endpoints_(std::move(endpoints)),
        io_(options_.threads),
        work_(io_.get_executor()) {
    for (int i = 0; i < options_.threads; ++i) {
      threads_.emplace_back([this] { io_.run(); });
    }
  }

  ~HttpTransport() override {
    io_.stop();
    for (std::thread& thread : threads_) thread.join();
  }

  void Send(const LoadItem& item, int64_t scheduled_ns, AnswerSink sink) override {
    const OpenAiRequest request = ToOpenAi(item, options_.request, options_.as_chat);
    auto job = std::make_shared<Job>(
        Job{.connection = Take(),
            .request = absl::StrCat(
                "POST ", options_.url.base, ToAbsl(request.target),
                " HTTP/1.1\r\nHost: ", options_.url.authority(), "\r\nUser-Agent: fathom-cli/",
                kVersion, options_.key.empty() ? "" : "\r\nAuthorization: Bearer ", options_.key,
                "\r\nContent-Type: application/json\r\nContent-Length: ", request.body.size(),
                "\r\n\r\n", request.body),
            .meter = AnswerMeter(scheduled_ns, CheckFor(item, options_.request)),
            .sink = std::move(sink)});
    asio::co_spawn(job->connection->socket.get_executor(), Run(this, job), asio::detached);
  }

  void CancelAll() override {
    const std::lock_guard lock(mutex_);
    for (const std::shared_ptr<Connection>& connection : busy_) {
      asio::post(connection->socket.get_executor(), [connection] {
        connection->cancelled = true;
        error_code ignored;
        connection->socket.close(ignored);
      });
    }
  }

 private:
  std::shared_ptr<Connection> Take() {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Connection> connection;
    if (idle_.empty()) {
      connection = std::make_shared<Connection>(io_);
    } else {
      connection = std::move(idle_.back());
      idle_.pop_back();
    }
    busy_.insert(connection);
    return connection;
  }

  void GiveBack(const std::shared_ptr<Connection>& connection, bool keep) {
    const std::lock_guard lock(mutex_);
    busy_.erase(connection);
    if (keep && !connection->cancelled) idle_.push_back(connection);
  }

  static asio::awaitable<void> Run(HttpTransport* self, std::shared_ptr<Job> job) {
    Connection& connection = *job->connection;
    Arm(job->connection, self->options_.timeout);
    const bool reused = !connection.fresh;
    Outcome outcome = co_await Attempt(self, job);
    // A server may close an idle connection just as it is used again; that says nothing about it.
    if (reused && !outcome.got_bytes && absl::IsUnavailable(outcome.status) &&
        !connection.cancelled) {
      connection.fresh = true;
      outcome = co_await Attempt(self, job);
    }
    connection.timer.cancel();
    Answer answer = job->meter.Finish(std::move(outcome.status), NowNs());
    if (!answer.status.ok() || !outcome.keep) {
      error_code ignored;
      connection.socket.close(ignored);
      outcome.keep = false;
    }
    self->GiveBack(job->connection, outcome.keep);
    job->sink(std::move(answer));
  }

  static void Arm(const std::shared_ptr<Connection>& connection, absl::Duration timeout) {
    connection->timed_out = false;
    connection->timer.expires_after(absl::ToChronoNanoseconds(timeout));
    connection->timer.async_wait([connection](const error_code& error) {
      if (error) return;
      connection->timed_out = true;
      error_code ignored;
      connection->socket.close(ignored);
    });
  }

  absl::Status Failure(const Connection& connection, const error_code& error,
                       std::string_view what) const {
    if (connection.cancelled) return absl::CancelledError("cancelled");
    if (connection.timed_out) {
      return absl::DeadlineExceededError(
          absl::StrCat("no end of the answer within ", absl::FormatDuration(options_.timeout)));
    }
    return absl::UnavailableError(absl::StrCat(
        options_.url.authority(), ": ", ToAbsl(what), ": ",
        error == asio::error::eof ? "the server closed the connection" : error.message()));
  }

  static asio::awaitable<Outcome> Attempt(HttpTransport* self, std::shared_ptr<Job> job) {
    Connection& connection = *job->connection;
    Outcome outcome;
    if (std::exchange(connection.fresh, false)) {
      error_code error;
      connection.socket.close(error);
      error = asio::error::host_unreachable;
      for (const tcp::endpoint& endpoint : self->endpoints_) {
        if (!error || connection.cancelled || connection.timed_out) break;
        connection.socket.close(error);
        auto [failed] = co_await connection.socket.async_connect(endpoint, kToken);
        error = failed;
      }
      if (error) {
        outcome.status = self->Failure(connection, error, "cannot connect");
        co_return outcome;
      }
      connection.socket.set_option(tcp::no_delay(true), error);
    }
    job->meter.OnSent(NowNs());
    const auto bytes = asio::buffer(job->request);
    auto [write_error, written] = co_await asio::async_write(connection.socket, bytes, kToken);
    if (write_error) {
      outcome.status = self->Failure(connection, write_error, "sending the request");
      co_return outcome;
    }
    co_await Read(self, job, outcome);
    co_return outcome;
  }

  // The answer, byte by byte as it comes, into the meter.
  static asio::awaitable<void> Read(HttpTransport* self, std::shared_ptr<Job> job,
                                    Outcome& outcome) {
    Connection& connection = *job->connection;
    http::response_parser<http::string_body> parser;
    parser.body_limit(boost::none);
    parser.eager(true);
    OpenAiStream stream(job->meter);
    std::vector<char> piece(kReadBytes);
    size_t kept = 0;  // bytes of a line of the head or of a chunk that is not whole yet
    while (!parser.is_done()) {
      const auto room = asio::buffer(piece.data() + kept, piece.size() - kept);
      auto [error, count] = co_await connection.socket.async_read_some(room, kToken);
      outcome.got_bytes = outcome.got_bytes || count > 0;
      error_code wrong;
      if (error == asio::error::eof && parser.got_some()) {
        parser.put_eof(wrong);
        if (!wrong) break;
      }
      if (error) {
        outcome.status = self->Failure(connection, error, "reading the answer");
        co_return;
      }
      const int64_t now_ns = NowNs();
      kept = Feed(parser, piece, kept + count, wrong);
      if (wrong || kept == piece.size()) {
        outcome.status = absl::InternalError(absl::StrCat("malformed HTTP: ", wrong.message()));
        co_return;
      }
      if (!parser.is_header_done() || parser.get().result_int() != 200 ||
          self->options_.request.unary) {
        if (parser.get().body().size() > kBodyMax) break;
        continue;
      }
      outcome.status = stream.Push(parser.get().body(), now_ns);
      parser.get().body().clear();
      if (!outcome.status.ok()) co_return;
    }
    outcome.keep = parser.is_done() && parser.keep_alive();
    if (parser.get().result_int() == 200) {
      outcome.status = self->options_.request.unary
                           ? ReadChunk(parser.get().body(), NowNs(), job->meter)
                           : stream.Finish();
    } else {
      outcome.status = ErrorOf(
          {.status = static_cast<int>(parser.get().result_int()), .body = parser.get().body()});
    }
  }

  // Gives the parser what there is; returns how many bytes, now at the beginning, it did not take.
  static size_t Feed(http::response_parser<http::string_body>& parser, std::vector<char>& piece,
                     size_t size, error_code& wrong) {
    size_t taken = 0;
    while (taken < size && !parser.is_done()) {
      const size_t used = parser.put(asio::buffer(piece.data() + taken, size - taken), wrong);
      taken += used;
      if (wrong == http::error::need_more) {
        wrong = {};
        break;
      }
      if (wrong || used == 0) break;
    }
    std::copy(piece.begin() + static_cast<std::ptrdiff_t>(taken),
              piece.begin() + static_cast<std::ptrdiff_t>(size), piece.begin());
    return size - taken;
  }

  const HttpTransportOptions options_;
  const std::vector<tcp::endpoint> endpoints_;
  asio::io_context io_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  // State below is protected by mutex_.
  std::vector<std::shared_ptr<Connection>> idle_;
  std::unordered_set<std::shared_ptr<Connection>> busy_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LoadTransport>> MakeHttpTransport(HttpTransportOptions options) {
  asio::io_context io;
  tcp::resolver resolver(io);
  error_code error;
  const auto found = resolver.resolve(options.url.host, std::to_string(options.url.port), error);
  std::vector<tcp::endpoint> endpoints;
  for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  if (error || endpoints.empty()) {
    return absl::UnavailableError(
        absl::StrCat(options.url.authority(), ": cannot be resolved: ", error.message()));
  }
  return std::make_unique<HttpTransport>(std::move(options), std::move(endpoints));
}

}  // namespace fathom::cli
