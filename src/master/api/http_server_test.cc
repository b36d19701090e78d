#include "master/api/http_server.h"

#include <gtest/gtest.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <deque>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "master/api/socket_client_testing.h"

namespace fathom::master {
namespace {

namespace asio = boost::asio;

constexpr char kGet[] = "GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n";

// Streams what the test gives it.
class TestSource final : public BodySource {
 public:
  State Pull(std::string& out) override {
    out += std::exchange(ready, {});
    return state;
  }
  std::string_view Ping() const override { return ": ping\n\n"; }

  std::string ready;
  State state = State::kMore;
};

// /echo answers with the body, /refuse never reads one, /stream and /wait are driven by the test.
class TestHandler final : public HttpHandler {
 public:
  std::optional<HttpReply> Admit(HttpCall& call, HttpRecord& /*record*/) override {
    if (call.path == "/refuse") return HttpReply{.status = 401, .body = "no"};
    return std::nullopt;
  }
  void Handle(HttpCall call, std::shared_ptr<HttpExchange> exchange) override {
    if (call.path == "/echo") {
      exchange->Reply({.content_type = "text/plain", .body = absl::StrCat("<", call.body, ">")});
      return;
    }
    if (call.path == "/stream") {
      auto source = std::make_shared<TestSource>();
      exchange->Stream({.content_type = "text/event-stream"}, source);
      const std::lock_guard lock(mutex_);
      source_ = source;
    }
    exchange->OnGone([this](const absl::Status& reason) {
      const std::lock_guard lock(mutex_);
      gone_ = std::string(reason.message());
      changed_.notify_all();
    });
    const std::lock_guard lock(mutex_);
    exchange_ = std::move(exchange);
    changed_.notify_all();
  }
  HttpReply Complaint(const HttpCall& /*call*/, int status, std::string_view message) override {
    return {.status = status, .body = std::string(message)};
  }
  void Done(const HttpCall& /*call*/, int status, int64_t /*duration_ns*/,
            const HttpRecord& /*record*/) override {
    const std::lock_guard lock(mutex_);
    done_.push_back(status);
    changed_.notify_all();
  }

  std::shared_ptr<HttpExchange> WaitExchange() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return exchange_ != nullptr; });
    return std::exchange(exchange_, nullptr);
  }
  std::string WaitGone() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return gone_.has_value(); });
    return *gone_;
  }
  int WaitDone() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !done_.empty(); });
    const int status = done_.front();
    done_.pop_front();
    return status;
  }
  void Write(const std::shared_ptr<HttpExchange>& exchange, std::string text,
             BodySource::State state = BodySource::State::kMore) {
    asio::post(exchange->strand(), [this, exchange, text = std::move(text), state] {
      source_->ready += text;
      source_->state = state;
      exchange->Wake();
    });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<HttpExchange> exchange_;
  std::shared_ptr<TestSource> source_;
  std::optional<std::string> gone_;
  std::deque<int> done_;
};

class HttpServerTest : public testing::Test {
 protected:
  void Start(HttpLimits limits = {}) {
    auto server = HttpServer::Start(io_, "127.0.0.1", 0, limits, handler_, *Clock::Real(),
                                    [] { return std::string("made-id"); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    for (int i = 0; i < 2; ++i) threads_.emplace_back([this] { io_.run(); });
  }
  void TearDown() override {
    server_->Drain();
    server_->Abort();
    EXPECT_TRUE(server_->WaitClosed(absl::Seconds(10)));
    work_.reset();
    io_.stop();
    for (std::thread& thread : threads_) thread.join();
  }
  uint16_t port() const { return server_->port(); }

  asio::io_context io_{2};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  TestHandler handler_;  // goes before io_: exchanges it keeps have timers there
  std::unique_ptr<HttpServer> server_;
  std::vector<std::thread> threads_;
};

TEST_F(HttpServerTest, KeepsAConnectionForManyRequests) {
  Start();
  SocketClient client(port());
  for (int i = 0; i < 50; ++i) {
    client.Send(absl::StrCat("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: ",
                             std::to_string(i).size(), "\r\n\r\n", i));
    EXPECT_TRUE(absl::EndsWith(client.ReadAnswer(), absl::StrCat("<", i, ">")));
  }
}

TEST_F(HttpServerTest, AnOldConnectionTakesNoFurtherRequest) {
  Start({.age = std::chrono::milliseconds(50)});
  SocketClient client(port());
  const std::string request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
  client.Send(request + "1");
  EXPECT_FALSE(absl::StrContains(client.ReadAnswer(), "Connection: close"));
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  client.Send(request + "2");
  const std::string last = client.ReadAll();
  EXPECT_TRUE(absl::StrContains(last, "Connection: close"));
  EXPECT_TRUE(absl::EndsWith(last, "<2>"));
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  Start();
  SocketClient client(port());
  std::string all;
  for (int i = 0; i < 20; ++i) {
    absl::StrAppend(&all, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", 10 + i);
  }
  client.Send(all);
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(absl::EndsWith(client.ReadAnswer(), absl::StrCat("<", 10 + i, ">"))) << i;
  }
}

TEST_F(HttpServerTest, APipelinedRequestBehindASlowOneWaitsForIt) {
  Start();
  SocketClient client(port());
  client.Send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = handler_.WaitExchange();
  client.Send(kGet);
  asio::post(exchange->strand(), [exchange] { exchange->Reply({.body = "slow"}); });
  EXPECT_TRUE(absl::EndsWith(client.ReadAnswer(), "slow"));
  EXPECT_TRUE(absl::EndsWith(client.ReadAnswer(), "<>"));
}

TEST_F(HttpServerTest, ReadsChunkedBodies) {
  Start();
  SocketClient client(port());
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n");
  client.Send("6\r\n world\r\n0\r\n\r\n");
  EXPECT_TRUE(absl::EndsWith(client.ReadAnswer(), "<hello world>"));
}

TEST_F(HttpServerTest, Http10ClosesUnlessAsked) {
  Start();
  SocketClient client(port());
  client.Send("GET /echo HTTP/1.0\r\n\r\n");
  const std::string answer = client.ReadAll();
  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.0 200"));
  EXPECT_TRUE(absl::StrContains(answer, "Connection: close"));
}

TEST_F(HttpServerTest, RequestIdsAreEchoedOrMade) {
  Start();
  SocketClient client(port());
  client.Send("GET /echo HTTP/1.1\r\nHost: a\r\nx-request-id: mine-1\r\n\r\n");
  EXPECT_TRUE(absl::StrContains(client.ReadAnswer(), "x-request-id: mine-1\r\n"));
  client.Send("GET /echo HTTP/1.1\r\nHost: a\r\nx-request-id: b a d\r\n\r\n");
  EXPECT_TRUE(absl::StrContains(client.ReadAnswer(), "x-request-id: made-id\r\n"));
}

TEST_F(HttpServerTest, ARefusalComesBeforeTheBody) {
  Start();
  SocketClient client(port());
  client.Send("POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly the start");
  EXPECT_TRUE(absl::StartsWith(client.ReadAll(), "HTTP/1.1 401"));
}

TEST_F(HttpServerTest, ContinueIsSaidOnlyToThoseLetIn) {
  Start();
  SocketClient client(port());
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("ok");
  EXPECT_TRUE(absl::EndsWith(client.ReadAnswer(), "<ok>"));
  client.Send(
      "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_TRUE(absl::StartsWith(client.ReadAnswer(), "HTTP/1.1 401"));
}

TEST_F(HttpServerTest, AnUnknownTransferCodingIsTheLastRequest) {
  Start();
  for (const char* coding : {"identity", "xchunked", "chunked, identity"}) {
    SocketClient client(port());
    client.Send(absl::StrCat("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ", coding,
                             "\r\n\r\n", kGet));
    const std::string answers = client.ReadAll();
    EXPECT_TRUE(absl::StartsWith(answers, "HTTP/1.1 501")) << coding;
    EXPECT_EQ(answers.find("HTTP/1.1", 1), std::string::npos) << "what follows is not a request";
  }
}

TEST_F(HttpServerTest, OversizeIsRefusedWithItsStatus) {
  Start({.header_bytes = 1024, .body_bytes = 100});
  {
    SocketClient client(port());
    client.Send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n");
    EXPECT_TRUE(absl::StartsWith(client.ReadAll(), "HTTP/1.1 413"));
  }
  {
    SocketClient client(port());
    client.Send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n");
    client.Send(std::string(64, 'x') + "\r\n40\r\n" + std::string(64, 'x') + "\r\n0\r\n\r\n");
    EXPECT_TRUE(absl::StartsWith(client.ReadAll(), "HTTP/1.1 413"));
  }
  {
    SocketClient client(port());
    client.Send(absl::StrCat("GET /echo HTTP/1.1\r\nHost: a\r\nX: ", std::string(2000, 'x')));
    EXPECT_TRUE(absl::StartsWith(client.ReadAll(), "HTTP/1.1 431"));
  }
}

TEST_F(HttpServerTest, TheHeadIsBoundedHoweverItComes) {
  constexpr size_t kLimit = 1024;
  Start({.header_bytes = kLimit});
  const std::string first = absl::StrCat("POST /echo?", std::string(500, 'p'),
                                         " HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\nX: ");
  const std::string last = "\r\n\r\n";
  const std::string body(3000, 'b');
  for (const auto& [bytes, status] : {std::pair{kLimit, "200"}, {kLimit + 1, "431"}}) {
    const std::string head =
        absl::StrCat(first, std::string(bytes - first.size() - last.size(), 'x'), last);
    for (const size_t piece : {head.size(), size_t{700}, size_t{100}}) {
      SocketClient client(port());
      for (size_t at = 0; at + piece < head.size(); at += piece) {
        client.Send(head.substr(at, piece));
        absl::SleepFor(absl::Milliseconds(5));
      }
      client.Send(head.substr((head.size() - 1) / piece * piece) + body);
      EXPECT_TRUE(absl::StartsWith(client.ReadAnswer(), absl::StrCat("HTTP/1.1 ", status)))
          << bytes << " bytes by " << piece;
    }
  }
}

TEST_F(HttpServerTest, TrailersAndChunkExtensionsAreBounded) {
  Start();
  for (const std::string start : {"0\r\nX: ", "0;", "1;"}) {
    SocketClient client(port());
    client.Send(
        absl::StrCat("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
                     start, std::string(1 << 20, 'y')));
    EXPECT_TRUE(absl::StartsWith(client.ReadAll(), "HTTP/1.1 431")) << start;
  }
}

TEST_F(HttpServerTest, AllBodiesTogetherAreBounded) {
  Start({.body_bytes = 100, .bodies_bytes = 150});
  SocketClient first(port());
  first.Send("POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n");
  first.Send(std::string(100, 'x'));
  const auto exchange = handler_.WaitExchange();
  const std::string post = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n";
  {
    SocketClient second(port());
    second.Send(post);
    EXPECT_TRUE(absl::StartsWith(second.ReadAll(), "HTTP/1.1 503"));
  }
  asio::post(exchange->strand(), [exchange] { exchange->Reply({.body = "done"}); });
  first.ReadAnswer();
  EXPECT_EQ(handler_.WaitDone(), 503);
  EXPECT_EQ(handler_.WaitDone(), 200);
  first.Send(post + std::string(60, 'y'));
  EXPECT_TRUE(absl::StartsWith(first.ReadAnswer(), "HTTP/1.1 200"));
}

TEST_F(HttpServerTest, AnEmptyChunkedBodyMayComeByBytes) {
  Start();
  SocketClient client(port());
  client.Send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (const char byte : {'0', '\r', '\n', '\r', '\n'}) {
    absl::SleepFor(absl::Milliseconds(5));
    client.Send(std::string(1, byte));
  }
  EXPECT_TRUE(absl::StartsWith(client.ReadAnswer(), "HTTP/1.1 200"));
}

TEST_F(HttpServerTest, AChunkedBodyTakesOfTheBudgetWhatHasCome) {
  constexpr uint64_t kMebibyte = 1 << 20;
  Start({.body_bytes = 4 * kMebibyte, .bodies_bytes = kMebibyte});
  const std::string head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string chunk = absl::StrCat("8000\r\n", std::string(0x8000, 'x'), "\r\n");
  // Each could become longer than what is left; all are short.
  std::vector<std::unique_ptr<SocketClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<SocketClient>(port()));
    clients.back()->Send(head + "1\r\nx\r\n");
  }
  for (const auto& client : clients) {
    client->Send("0\r\n\r\n");
    EXPECT_TRUE(absl::StartsWith(client->ReadAnswer(), "HTTP/1.1 200"));
  }
  SocketClient greedy(port());
  greedy.Send(head);
  for (int i = 0; i < 40; ++i) greedy.Send(chunk);
  EXPECT_TRUE(absl::StartsWith(greedy.ReadAll(), "HTTP/1.1 503"));
  // All of it has come back.
  SocketClient next(port());
  next.Send(head + chunk + chunk + "0\r\n\r\n");
  EXPECT_TRUE(absl::StartsWith(next.ReadAnswer(), "HTTP/1.1 200"));
}

TEST_F(HttpServerTest, GarbageIsABadRequestAndTheServerGoesOn) {
  Start();
  for (const std::string& garbage :
       {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls hello\r\n\r\n", 25),
        std::string("GET\r\n\r\n"), std::string("GET / HTTP/9.9\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nBad Header: x\r\n\r\n"),
        std::string("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        std::string("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                    "Content-Length: 2\r\n\r\nab"),
        std::string(
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")}) {
    SocketClient client(port());
    client.Send(garbage);
    EXPECT_TRUE(absl::StartsWith(client.ReadAll(), "HTTP/1.1 400")) << garbage;
  }
  SocketClient client(port());
  client.Send(kGet);
  EXPECT_TRUE(absl::StartsWith(client.ReadAnswer(), "HTTP/1.1 200"));
}

// Random bytes and mutilated requests, cut anywhere: the server answers others all the while.
TEST_F(HttpServerTest, SurvivesMutilatedRequests) {
  Start({.header = std::chrono::milliseconds(200),
         .body = std::chrono::milliseconds(200),
         .linger = std::chrono::milliseconds(50)});
  SeededRandom random(42);
  const std::string seed =
      "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
  for (int round = 0; round < 300; ++round) {
    std::string bytes = seed;
    for (uint64_t i = 0; i < random.Next() % 6; ++i) {
      bytes[random.Next() % bytes.size()] = static_cast<char>(random.Next() % 256);
    }
    bytes.resize(1 + random.Next() % bytes.size());
    SocketClient client(port());
    ASSERT_TRUE(client.connected());
    client.Send(bytes);
    if (random.Next() % 8 == 0) client.Read();
  }
  SocketClient client(port());
  client.Send(kGet);
  EXPECT_TRUE(absl::StartsWith(client.ReadAnswer(), "HTTP/1.1 200"));
}

TEST_F(HttpServerTest, ASlowHeaderAndASlowBodyAreCutOff) {
  Start({.header = std::chrono::milliseconds(50), .body = std::chrono::milliseconds(50)});
  SocketClient slow_header(port());
  slow_header.Send("GET /echo HT");
  EXPECT_TRUE(absl::StartsWith(slow_header.ReadAll(), "HTTP/1.1 408"));
  SocketClient slow_body(port());
  slow_body.Send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_TRUE(absl::StartsWith(slow_body.ReadAll(), "HTTP/1.1 408"));
}

TEST_F(HttpServerTest, IdleConnectionsAreClosed) {
  Start({.idle = std::chrono::milliseconds(50)});
  SocketClient silent(port());
  EXPECT_EQ(silent.ReadAll(), "");
  SocketClient once(port());
  once.Send(kGet);
  EXPECT_TRUE(absl::EndsWith(once.ReadAll(), "<>"));
}

TEST_F(HttpServerTest, TooManyConnectionsAreTurnedAway) {
  Start({.connections = 2});
  SocketClient a(port());
  SocketClient b(port());
  for (SocketClient* client : {&a, &b}) {
    client->Send(kGet);
    EXPECT_TRUE(absl::StartsWith(client->ReadAnswer(), "HTTP/1.1 200"));
  }
  SocketClient c(port());
  EXPECT_TRUE(absl::StartsWith(c.ReadAll(), "HTTP/1.1 503"));
}

TEST_F(HttpServerTest, StreamsInChunksAndEndsProperly) {
  Start();
  SocketClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = handler_.WaitExchange();
  handler_.Write(exchange, "data: 1\n\n");
  EXPECT_TRUE(absl::StrContains(client.ReadUntil("data: 1\n\n"), "Transfer-Encoding: chunked"));
  handler_.Write(exchange, "data: 2\n\n", BodySource::State::kEnd);
  EXPECT_EQ(client.ReadUntil("0\r\n\r\n"), "\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n");
  client.Send(kGet);
  EXPECT_TRUE(absl::StartsWith(client.ReadAnswer(), "HTTP/1.1 200")) << "the connection lives on";
}

TEST_F(HttpServerTest, ABrokenStreamHasNoLastChunk) {
  Start();
  SocketClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  handler_.Write(handler_.WaitExchange(), "data: error\n\n", BodySource::State::kBroken);
  const std::string all = client.ReadAll();
  EXPECT_TRUE(absl::StrContains(all, "data: error"));
  EXPECT_FALSE(absl::EndsWith(all, "0\r\n\r\n"));
}

TEST_F(HttpServerTest, SilentStreamsArePinged) {
  Start({.ping = std::chrono::milliseconds(10)});
  SocketClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_TRUE(absl::EndsWith(client.ReadUntil(": ping\n\n"), ": ping\n\n"));
}

TEST_F(HttpServerTest, AClientThatGoesAwayIsNoticedAtOnce) {
  Start();
  for (const char* path : {"/wait", "/stream"}) {
    SocketClient client(port());
    client.Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: a\r\n\r\n"));
    handler_.WaitExchange();
    client.Close();
    EXPECT_EQ(handler_.WaitGone(), "the client went away");
    EXPECT_EQ(handler_.WaitDone(), 499);
  }
}

TEST_F(HttpServerTest, AClientThatDoesNotReadIsCutOff) {
  Start({.write = std::chrono::milliseconds(100)});
  SocketClient client(port(), /*receive_buffer_bytes=*/4096);
  client.Send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  handler_.Write(handler_.WaitExchange(), std::string(size_t{32} << 20, 'x'));
  EXPECT_EQ(handler_.WaitGone(), "the client read too slowly");
}

TEST_F(HttpServerTest, DrainLetsTheCurrentAnswerFinish) {
  Start();
  SocketClient idle(port());
  idle.Send(kGet);
  idle.ReadAnswer();
  SocketClient busy(port());
  busy.Send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto exchange = handler_.WaitExchange();
  server_->Drain();
  EXPECT_EQ(idle.ReadAll(), "");
  asio::post(exchange->strand(), [exchange] { exchange->Reply({.body = "last"}); });
  const std::string answer = busy.ReadAll();
  EXPECT_TRUE(absl::EndsWith(answer, "last"));
  EXPECT_TRUE(absl::StrContains(answer, "Connection: close"));
  busy.Close();
  idle.Close();
  EXPECT_TRUE(server_->WaitClosed(absl::Seconds(10)));
  EXPECT_FALSE(SocketClient(port()).connected());
}

}  // namespace
}  // namespace fathom::master
