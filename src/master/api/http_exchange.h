#pragma once

// One HTTP request and its answer, between the session that talks to the client and the handler
// that knows what to say. An exchange lives on the session's strand: every call happens there. The
// handler answers once, whole or as a stream; the session pulls, so that a slow client slows only
// its own stream and what is ready grows together in the source.

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/fields.hpp>
#include <boost/beast/http/verb.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "master/identity/principal.h"

namespace fathom::master {

struct HttpCall {
  boost::beast::http::verb method = boost::beast::http::verb::unknown;
  std::string path;  // without query, still percent-encoded
  boost::beast::http::fields headers;
  std::string body;
  std::string peer;        // address of the client, for logs
  std::string request_id;  // the client's x-request-id if it is fit to print, else ours
  Principal principal;     // set by HttpHandler::Admit
  bool http_10 = false;
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};

// What the access log says of an exchange, filled in on the way.
struct HttpRecord {
  std::string key_id;
  std::string tenant;
  std::string model;
  std::string request;  // what the generation is called, the first one where there are several
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  std::string error;
};

// The body of a streamed answer.
class BodySource {
 public:
  virtual ~BodySource() = default;
  // Appends what is ready now. kEnd: that was all. kBroken: close without a proper end, so that the
  // client can tell.
  enum class State { kMore, kEnd, kBroken };
  virtual State Pull(std::string& out) = 0;
  // Keeps the connection alive while nothing is ready.
  virtual std::string_view Ping() const = 0;
};

class HttpExchange {
 public:
  explicit HttpExchange(const boost::asio::any_io_executor& strand) : signal_(strand) {}

  // ---- for the handler ----
  // The whole answer. Once; not after Stream.
  void Reply(HttpReply reply) {
    reply_ = std::move(reply);
    Wake();
  }
  // Begins a streamed answer; call Wake whenever the source has more.
  void Stream(HttpReply head, std::shared_ptr<BodySource> source) {
    reply_ = std::move(head);
    source_ = std::move(source);
    Wake();
  }
  void Wake() { signal_.cancel(); }
  // Called once if the client goes away, or is too slow, before the answer is out.
  void OnGone(std::function<void(const absl::Status&)> callback) { on_gone_ = std::move(callback); }
  bool streaming() const { return source_ != nullptr; }
  HttpRecord& record() { return record_; }
  boost::asio::any_io_executor strand() { return signal_.get_executor(); }

  // ---- for the session ----
  boost::asio::steady_timer& signal() { return signal_; }
  std::optional<HttpReply>& reply() { return reply_; }
  const std::shared_ptr<BodySource>& source() const { return source_; }
  void Gone(const absl::Status& reason) {
    gone_ = true;
    // Moved out first: the callback may drop the last reference to what it belongs to.
    if (const auto callback = std::exchange(on_gone_, nullptr)) callback(reason);
    Wake();
  }
  bool gone() const { return gone_; }
  // Breaks the ring between exchange and handler.
  void Close() {
    on_gone_ = nullptr;
    source_ = nullptr;
  }

 private:
  boost::asio::steady_timer signal_;
  std::optional<HttpReply> reply_;
  std::shared_ptr<BodySource> source_;
  std::function<void(const absl::Status&)> on_gone_;
  HttpRecord record_;
  bool gone_ = false;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // With the head alone, before a byte of the body is read: who is it, is there such a place? An
  // answer here ends the request. On any strand.
  virtual std::optional<HttpReply> Admit(HttpCall& call, HttpRecord& record) = 0;
  // Answers by way of the exchange, now or later, on its strand.
  virtual void Handle(HttpCall call, std::shared_ptr<HttpExchange> exchange) = 0;
  // The session's own complaints, in the form of the place that was asked; of the call only what
  // could be read is known.
  virtual HttpReply Complaint(const HttpCall& call, int status, std::string_view message) = 0;
  // For the access log and the counters.
  virtual void Done(const HttpCall& call, int status, int64_t duration_ns,
                    const HttpRecord& record) = 0;
};

}  // namespace fathom::master
