#include "cli/load/http_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "cli/http_client/canned_server_testing.h"
#include "common/clock.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

const std::string kChunk = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
const std::string kUsage =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1}}\n\n";

std::string Chunked(const std::vector<std::string>& parts, const std::string& headers = "") {
  std::string out = "HTTP/1.1 200 OK\r\n" + headers + "Transfer-Encoding: chunked\r\n\r\n";
  for (const std::string& part : parts) {
    char size[16];
    std::snprintf(size, sizeof(size), "%zx\r\n", part.size());
    out += size + part + "\r\n";
  }
  return out + "0\r\n\r\n";
}
std::string WholeStream() { return Chunked({kChunk, kUsage, "data: [DONE]\n\n"}); }

std::unique_ptr<LoadTransport> To(const Url& url, absl::Duration timeout = absl::Seconds(20)) {
  return MakeHttpTransport(
             {.url = url, .key = "secret", .request = {.model = "m"}, .timeout = timeout})
      .value();
}

std::future<Answer> Ask(LoadTransport& transport) {
  auto answer = std::make_shared<std::promise<Answer>>();
  transport.Send({.prompt = TokenPrompt{1}, .output_len = 1}, Clock::Real()->MonotonicNs(),
                 [answer](Answer got) { answer->set_value(std::move(got)); });
  return answer->get_future();
}

TEST(HttpTransportTest, ReadsStreamsOverOneConnection) {
  CannedServer server({{{WholeStream(), WholeStream()}}});
  const auto transport = To(server.url());
  for (int i = 0; i < 2; ++i) {
    const Answer answer = Ask(*transport).get();
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.output_tokens, 1);
    EXPECT_EQ(answer.prompt_tokens, 2);
    EXPECT_GE(answer.first_ns, answer.sent_ns);
  }
  EXPECT_THAT(server.requests().at(0), HasSubstr("Authorization: Bearer secret\r\n"));
  EXPECT_THAT(server.requests().at(0), HasSubstr("POST /v1/completions HTTP/1.1\r\n"));
}

TEST(HttpTransportTest, ConnectsAgainWhenAnIdleConnectionWasClosed) {
  CannedServer server({{{WholeStream()}}, {{WholeStream()}}});
  const auto transport = To(server.url());
  EXPECT_TRUE(Ask(*transport).get().status.ok());
  const Answer second = Ask(*transport).get();
  EXPECT_TRUE(second.status.ok()) << second.status;
}

TEST(HttpTransportTest, AStreamWithoutItsEndIsAnError) {
  const std::string cut = Chunked({kChunk});
  CannedServer server({{{cut.substr(0, cut.size() - 5)}}, {{Chunked({kChunk, kUsage})}}});
  const auto transport = To(server.url());
  EXPECT_EQ(Ask(*transport).get().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Ask(*transport).get().status.code(), absl::StatusCode::kUnavailable);
}

TEST(HttpTransportTest, TellsWhatTheServerAnswered) {
  CannedServer server(
      {{{CannedAnswer(429, R"({"error":{"message":"later"}})"), "garbage\r\n\r\n"}}});
  const auto transport = To(server.url());
  const Answer refused = Ask(*transport).get();
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.status.message(), "later");
}

TEST(HttpTransportTest, ReadsWholeAnswers) {
  CannedServer server(
      {{{CannedAnswer(200, R"({"choices":[{"text":"ab"}],"usage":{"completion_tokens":2}})")}}});
  const auto transport =
      MakeHttpTransport({.url = server.url(), .request = {.model = "m", .unary = true}}).value();
  const Answer answer = Ask(*transport).get();
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.output_tokens, 2);
  EXPECT_EQ(server.requests().at(0).find("stream"), std::string::npos);
}

TEST(HttpTransportTest, RefusesWhatIsNoHttp) {
  CannedServer server({{{"garbage\r\n\r\n"}}});
  const auto transport = To(server.url());
  EXPECT_EQ(Ask(*transport).get().status.code(), absl::StatusCode::kInternal);
}

TEST(HttpTransportTest, NothingWaitsForEver) {
  CannedServer server({{{}, true}, {{}, true}});
  const auto slow = To(server.url(), absl::Milliseconds(50));
  EXPECT_EQ(Ask(*slow).get().status.code(), absl::StatusCode::kDeadlineExceeded);
  const auto transport = To(server.url());
  std::future<Answer> cancelled = Ask(*transport);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  transport->CancelAll();
  EXPECT_EQ(cancelled.get().status.code(), absl::StatusCode::kCancelled);
  const auto nowhere = To({.host = "127.0.0.1", .port = 1});
  EXPECT_EQ(Ask(*nowhere).get().status.code(), absl::StatusCode::kUnavailable);
}

TEST(HttpTransportTest, MayEndWithRequestsUnderWay) {
  CannedServer server({{{}, true}});
  auto transport = To(server.url());
  std::future<Answer> never = Ask(*transport);
  transport.reset();
  EXPECT_THROW(never.get(), std::future_error);  // its sink went with it, uncalled
}

}  // namespace
}  // namespace fathom::cli
