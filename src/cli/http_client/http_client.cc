#include "cli/http_client/http_client.h"

#include <array>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/version.h"

namespace fathom::cli {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace net = boost::asio;
using boost::system::error_code;

using Request = http::request<http::string_body>;
using Parser = http::response_parser<http::buffer_body>;

std::chrono::nanoseconds ToChrono(absl::Duration d) { return absl::ToChronoNanoseconds(d); }

}  // namespace

class HttpClient::Impl {
 public:
  Impl(Url url, HttpOptions options) : url_(std::move(url)), options_(std::move(options)) {}

  const Url& url() const { return url_; }

  void Cancel() {
    cancelled_ = true;
    // It may run as late as within the next request, which Resume has let through.
    net::post(io_, [this] {
      if (cancelled_ && stream_) stream_->cancel();
    });
  }
  void Resume() { cancelled_ = false; }

  absl::StatusOr<HttpResponse> Send(http::verb verb, std::string_view target, std::string body,
                                    const Sink& sink, const Headers& headers) {
    Request request(verb, absl::StrCat(url_.base, ToAbsl(target)), 11);
    request.set(http::field::host, url_.authority());
    request.set(http::field::user_agent, std::string("fathom-cli/") + kVersion);
    if (!options_.key.empty()) {
      request.set(http::field::authorization, "Bearer " + options_.key);
    }
    if (!body.empty()) request.set(http::field::content_type, "application/json");
    for (const auto& [name, value] : headers) request.set(name, value);
    request.body() = std::move(body);
    request.prepare_payload();

    const bool reused = stream_.has_value();
    absl::StatusOr<HttpResponse> response = Exchange(request, sink);
    // A server may close an idle connection just as it is used again; that says nothing about it.
    if (reused && !response.ok() && !got_bytes_ && absl::IsUnavailable(response.status())) {
      response = Exchange(request, sink);
    }
    return response;
  }

 private:
  // Runs one asynchronous operation to its end.
  template <typename Start>
  error_code Await(absl::Duration timeout, const Start& start) {
    if (cancelled_) return net::error::operation_aborted;
    error_code result = net::error::operation_aborted;
    stream_->expires_after(ToChrono(timeout));
    start([&result](error_code error, auto&&...) { result = error; });
    io_.restart();
    io_.run();
    return result;
  }

  absl::Status Fail(error_code error, std::string_view what) {
    stream_.reset();
    if (cancelled_) return absl::CancelledError("cancelled");
    const std::string text = absl::StrCat(url_.authority(), ": ", ToAbsl(what));
    if (error == beast::error::timeout) {
      return absl::DeadlineExceededError(absl::StrCat(text, ": no answer in time"));
    }
    if (error == http::error::end_of_stream || error == http::error::partial_message) {
      return absl::UnavailableError(absl::StrCat(text, ": the server closed the connection"));
    }
    return absl::UnavailableError(absl::StrCat(text, ": ", error.message()));
  }

  absl::Status Connect() {
    if (stream_) return absl::OkStatus();
    error_code error;
    net::ip::tcp::resolver resolver(io_);
    const auto endpoints = resolver.resolve(url_.host, std::to_string(url_.port), error);
    if (error) return Fail(error, "cannot be resolved");
    stream_.emplace(io_);
    buffer_.clear();
    error = Await(options_.connect_timeout,
                  [&](auto done) { stream_->async_connect(endpoints, std::move(done)); });
    if (error) return Fail(error, "cannot connect");
    stream_->socket().set_option(net::ip::tcp::no_delay(true), error);
    return absl::OkStatus();
  }

  absl::StatusOr<HttpResponse> Exchange(const Request& request, const Sink& sink) {
    got_bytes_ = false;
    RETURN_IF_ERROR(Connect());
    error_code error = Await(options_.idle_timeout, [&](auto done) {
      http::async_write(*stream_, request, std::move(done));
    });
    if (error) return Fail(error, "sending the request");

    Parser parser;
    parser.body_limit(boost::none);
    error = Await(options_.idle_timeout, [&](auto done) {
      http::async_read_header(*stream_, buffer_, parser, std::move(done));
    });
    got_bytes_ = parser.got_some();
    if (error) return Fail(error, "waiting for the answer");

    HttpResponse response;
    response.status = parser.get().result_int();
    response.content_type = std::string(parser.get()[http::field::content_type]);
    const auto retry_after = parser.get()[http::field::retry_after];
    if (!absl::SimpleAtoi(absl::string_view(retry_after.data(), retry_after.size()),
                          &response.retry_after_s)) {
      response.retry_after_s = 0;
    }
    RETURN_IF_ERROR(ReadBody(parser, response, response.status == 200 ? sink : nullptr));
    if (!parser.get().keep_alive()) stream_.reset();
    return response;
  }

  absl::Status ReadBody(Parser& parser, HttpResponse& response, const Sink& sink) {
    std::array<char, 16384> piece;
    while (!parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      const error_code error = Await(options_.idle_timeout, [&](auto done) {
        http::async_read_some(*stream_, buffer_, parser, std::move(done));
      });
      const std::string_view bytes(piece.data(), piece.size() - parser.get().body().size);
      if (sink) {
        if (absl::Status status = sink(bytes); !status.ok()) {
          stream_.reset();
          return status;
        }
      } else if (response.body.size() + bytes.size() > kBodyBytesMax) {
        stream_.reset();
        return absl::ResourceExhaustedError("the answer is too large");
      } else {
        response.body += bytes;
      }
      if (error && error != http::error::need_buffer) return Fail(error, "reading the answer");
    }
    return absl::OkStatus();
  }

  const Url url_;
  const HttpOptions options_;
  std::atomic<bool> cancelled_ = false;
  net::io_context io_;
  std::optional<beast::tcp_stream> stream_;
  beast::flat_buffer buffer_;
  bool got_bytes_ = false;  // of the answer to the last request
};

HttpClient::HttpClient(Url url, HttpOptions options)
    : impl_(std::make_unique<Impl>(std::move(url), std::move(options))) {}
HttpClient::~HttpClient() = default;

absl::StatusOr<HttpResponse> HttpClient::Get(std::string_view target) {
  return impl_->Send(http::verb::get, target, "", nullptr, {});
}

absl::StatusOr<HttpResponse> HttpClient::Post(std::string_view target, std::string body_json,
                                              const Sink& sink, const Headers& headers) {
  return impl_->Send(http::verb::post, target, std::move(body_json), sink, headers);
}

void HttpClient::Cancel() { impl_->Cancel(); }
void HttpClient::Resume() { impl_->Resume(); }
const Url& HttpClient::url() const { return impl_->url(); }

}  // namespace fathom::cli
