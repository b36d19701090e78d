#include "cli/chat_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/http_client/canned_server_testing.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Event(const std::string& data) { return "data: " + data + "\n\n"; }
std::string Delta(const std::string& text) {
  return Event(R"({"choices":[{"index":0,"delta":{"content":")" + text +
               R"("},"finish_reason":null}],"usage":null})");
}

struct Streamed {
  absl::StatusOr<ChatAnswer> answer;
  std::string shown;
};

Streamed Stream(const std::string& events) {
  CannedServer server({{{CannedAnswer(200, events, "Content-Type: text/event-stream\r\n")}}});
  HttpClient client(server.url(), {});
  Streamed result;
  result.answer = StreamChat(
      client, {{"model", "m"}}, [&](std::string_view text) { result.shown += text; },
      *Clock::Real());
  EXPECT_THAT(server.requests().at(0), HasSubstr(R"("stream":true)"));
  return result;
}

TEST(StreamChatTest, JoinsDeltasAndReadsUsage) {
  const Streamed got = Stream(
      ": ping\n\n" + Event(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})") +
      Delta("Hel") + Delta("lo") + Event(R"({"choices":[{"delta":{},"finish_reason":"stop"}]})") +
      Event(R"({"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}})") +
      Event("[DONE]"));
  ASSERT_TRUE(got.answer.ok()) << got.answer.status();
  EXPECT_EQ(got.shown, "Hello");
  EXPECT_EQ(got.answer->text, "Hello");
  EXPECT_EQ(got.answer->finish_reason, "stop");
  EXPECT_EQ(got.answer->prompt_tokens, 5);
  EXPECT_EQ(got.answer->completion_tokens, 2);
  EXPECT_GE(got.answer->total, got.answer->to_first_token);
}

TEST(StreamChatTest, ErrorInMidStreamCarriesTheServersWords) {
  const Streamed got = Stream(Delta("a") + Event(R"({"error":{"message":"worker lost"}})"));
  EXPECT_THAT(std::string(Message(got.answer.status())), HasSubstr("worker lost"));
  EXPECT_EQ(got.shown, "a");
}

TEST(StreamChatTest, EndWithoutDoneIsAnError) { EXPECT_FALSE(Stream(Delta("a")).answer.ok()); }

TEST(StreamChatTest, ABrokenStreamIsTakenUpBehindItsLastEvent) {
  const std::string type = "Content-Type: text/event-stream\r\n";
  CannedServer server(
      {{{CannedAnswer(200, "id: first\n" + Delta("Hel") + "id: second\n", type)}},
       {{CannedAnswer(503, "{}")}},
       {{CannedAnswer(200, "id: second\n" + Delta("lo") + Event("[DONE]"), type)}}});
  HttpClient client(server.url(), {});
  std::string shown;
  const auto answer = StreamChat(
      client, {{"model", "m"}}, [&](std::string_view text) { shown += text; }, *Clock::Real());
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(shown, "Hello");
  ASSERT_EQ(server.requests().size(), 3u);
  EXPECT_THAT(server.requests()[0], Not(HasSubstr("Last-Event-ID")));
  for (const int again : {1, 2}) {
    EXPECT_THAT(server.requests()[again], HasSubstr("Last-Event-ID: first\r\n"));
  }
}

TEST(ChatClientTest, ABrokenConnectionIsTriedAgainUnderTheSameName) {
  CannedServer server(
      {{{""}}, {{CannedAnswer(200, R"({"choices":[{"message":{"content":"Hi"}}]})")}}});
  HttpClient client(server.url(), {});
  const auto answer = CompleteChat(client, {}, *Clock::Real());
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text, "Hi");
  ASSERT_EQ(server.requests().size(), 2u);
  const auto name = [&](int i) {
    const std::string request = server.requests()[i];
    const size_t at = request.find("Idempotency-Key: ");
    return request.substr(at, request.find("\r\n", at) - at);
  };
  EXPECT_EQ(name(0).size(), std::string("Idempotency-Key: ").size() + 32);
  EXPECT_EQ(name(0), name(1));
}

TEST(StreamChatTest, ChunkThatIsNoJsonIsAnError) {
  EXPECT_FALSE(Stream(Event("{") + Event("[DONE]")).answer.ok());
  EXPECT_TRUE(Stream(Event(R"([{"choices":5}])") + Event("[DONE]")).answer.ok());
}

TEST(ChatClientTest, StatusesBecomeCodes) {
  const struct {
    int http;
    absl::StatusCode code;
  } cases[] = {
      {400, absl::StatusCode::kInvalidArgument},   {401, absl::StatusCode::kUnauthenticated},
      {403, absl::StatusCode::kPermissionDenied},  {404, absl::StatusCode::kNotFound},
      {429, absl::StatusCode::kResourceExhausted}, {503, absl::StatusCode::kUnavailable},
      {500, absl::StatusCode::kInternal}};
  for (const auto& c : cases) {
    const absl::Status status =
        ErrorOf({.status = c.http, .body = R"({"error":{"message":"because"}})"});
    EXPECT_EQ(status.code(), c.code);
    EXPECT_EQ(Message(status), "because");
  }
  EXPECT_THAT(std::string(Message(ErrorOf({.status = 500, .body = "<html>"}))), HasSubstr("500"));
}

TEST(ChatClientTest, CompleteChatReadsTheMessage) {
  CannedServer server(
      {{{CannedAnswer(200, R"({"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],)"
                           R"("usage":{"completion_tokens":3}})")}}});
  HttpClient client(server.url(), {});
  const auto answer = CompleteChat(client, {}, *Clock::Real());
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text, "Hi");
  EXPECT_EQ(answer->completion_tokens, 3);
}

TEST(ChatClientTest, FirstModelIsTheFirstListed) {
  CannedServer server({{{CannedAnswer(200, R"({"data":[{"id":"a"},{"id":"b"}]})")}},
                       {{CannedAnswer(200, R"({"data":[]})")}}});
  HttpClient client(server.url(), {});
  EXPECT_EQ(*FirstModel(client), "a");
  EXPECT_FALSE(FirstModel(client).ok());
}

TEST(ChatAnswerTest, SpeedCountsTokensAfterTheFirst) {
  const ChatAnswer answer{.completion_tokens = 11,
                          .to_first_token = absl::Milliseconds(500),
                          .total = absl::Milliseconds(1500)};
  EXPECT_DOUBLE_EQ(answer.tokens_per_second(), 10);
  EXPECT_EQ(ChatAnswer{.completion_tokens = 1}.tokens_per_second(), 0);
}

}  // namespace
}  // namespace fathom::cli
