#include "cli/http_client/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "cli/http_client/canned_server_testing.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

TEST(HttpClientTest, SendsKeyHostAndBodyAndReadsTheAnswer) {
  CannedServer server({{{CannedAnswer(429, "slow down", "Retry-After: 7\r\n")}}});
  HttpClient client(server.url(), HttpOptions{.key = "secret"});
  const auto response = client.Post("/v1/x", "{}");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 429);
  EXPECT_EQ(response->retry_after_s, 7);
  EXPECT_EQ(response->body, "slow down");
  const std::string request = server.requests().at(0);
  EXPECT_THAT(request, HasSubstr("POST /v1/x HTTP/1.1\r\n"));
  EXPECT_THAT(request, HasSubstr("Authorization: Bearer secret\r\n"));
  EXPECT_THAT(request, HasSubstr("Host: 127.0.0.1:"));
  EXPECT_THAT(request, HasSubstr("\r\n\r\n{}"));
}

TEST(HttpClientTest, ReusesItsConnection) {
  CannedServer server({{{CannedAnswer(200, "a"), CannedAnswer(200, "b")}}});
  HttpClient client(server.url(), {});
  EXPECT_EQ(client.Get("/1")->body, "a");
  EXPECT_EQ(client.Get("/2")->body, "b");
}

TEST(HttpClientTest, ConnectsAgainWhenTheServerClosedAnIdleConnection) {
  CannedServer server({{{CannedAnswer(200, "a")}}, {{CannedAnswer(200, "b")}}});
  HttpClient client(server.url(), {});
  EXPECT_EQ(client.Get("/1")->body, "a");
  const auto second = client.Get("/2");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->body, "b");
}

TEST(HttpClientTest, HandsChunksToTheSink) {
  CannedServer server(
      {{{"HTTP/1.1 200 OK\r\nTransfer-Encoding: "
         "chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"}}});
  HttpClient client(server.url(), {});
  std::string got;
  const auto response = client.Post("/", "{}", [&](std::string_view bytes) {
    got += bytes;
    return absl::OkStatus();
  });
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(got, "abcde");
  EXPECT_EQ(response->body, "");
}

TEST(HttpClientTest, ErrorOfTheSinkIsReturned) {
  CannedServer server({{{CannedAnswer(200, "abc")}}});
  HttpClient client(server.url(), {});
  const auto response =
      client.Post("/", "{}", [](std::string_view) { return absl::DataLossError("no"); });
  EXPECT_EQ(response.status().code(), absl::StatusCode::kDataLoss);
}

TEST(HttpClientTest, BrokenAnswersAreUnavailable) {
  for (const char* answer :
       {"", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    CannedServer server({{{answer}}});
    HttpClient client(server.url(), {});
    EXPECT_EQ(client.Get("/").status().code(), absl::StatusCode::kUnavailable) << answer;
  }
}

TEST(HttpClientTest, NobodyThereIsUnavailable) {
  Url url;
  {
    const CannedServer server({});
    url = server.url();
  }
  HttpClient client(url, {});
  EXPECT_EQ(client.Get("/").status().code(), absl::StatusCode::kUnavailable);
}

TEST(HttpClientTest, SilenceIsADeadline) {
  CannedServer server({{{""}, /*stays_open=*/true}});
  HttpClient client(server.url(), HttpOptions{.idle_timeout = absl::Milliseconds(50)});
  EXPECT_EQ(client.Get("/").status().code(), absl::StatusCode::kDeadlineExceeded);
}

// Cancel hands over to the thread of the next request, which Resume must keep from it.
TEST(HttpClientTest, ACancelOfNothingLeavesTheNextRequestAlone) {
  CannedServer server({{{CannedAnswer(200, "ok")}}});
  HttpClient client(server.url(), {});
  client.Cancel();
  client.Resume();
  const auto next = client.Get("/");
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->body, "ok");
}

TEST(HttpClientTest, CancelEndsARequestAndResumeAllowsTheNext) {
  CannedServer server(
      {{{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"}, true}, {{CannedAnswer(200, "ok")}}});
  HttpClient client(server.url(), {});
  std::jthread other;
  const auto response = client.Post("/", "{}", [&](std::string_view) {
    if (!other.joinable()) other = std::jthread([&client] { client.Cancel(); });
    return absl::OkStatus();
  });
  EXPECT_EQ(response.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client.Get("/").status().code(), absl::StatusCode::kCancelled);
  client.Resume();
  const auto next = client.Get("/");
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->body, "ok");
}

}  // namespace
}  // namespace fathom::cli
