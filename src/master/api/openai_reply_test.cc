#include "master/api/openai_reply.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "master/api/delta_buffer.h"
#include "master/api/errors.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

const ModelPtr& TinyModel() {
  // Never destroyed: the Rust side needs its thread's storage, which goes before statics do.
  static const ModelPtr& kModel = *new ModelPtr([] {
    const char* root = std::getenv("FATHOM_SOURCE_DIR");
    auto model = LoadServedModel(absl::StrCat(root == nullptr ? "." : root, "/models/tiny"), "tiny",
                                 absl::UnixEpoch());
    EXPECT_TRUE(model.ok()) << model.status();
    return *model;
  }());
  return kModel;
}

OpenAiReplyInfo Info(OpenAiKind kind) {
  return {.kind = kind, .id = "chatcmpl-1", .created = 1700000000, .model = TinyModel()};
}

GenerationDelta Delta(int32_t choice, std::string text, FinishReason finish = FinishReason::kNone) {
  return {.choice = choice, .text = std::move(text), .finish = finish};
}

TEST(OpenAiReplyTest, AChatStreamByteForByte) {
  OpenAiReplyInfo info = Info(OpenAiKind::kChat);
  info.include_usage = true;
  OpenAiReply reply(info, 1);
  std::string out;
  reply.AppendChunk(out, Delta(0, "Hel\"lo"));
  reply.AppendChunk(out, Delta(0, ""));
  reply.AppendChunk(out, Delta(0, "!", FinishReason::kStop));
  reply.AppendUsageChunk(out, {.prompt_tokens = 9, .completion_tokens = 2, .cached_tokens = 4});
  OpenAiReply::AppendDone(out);
  const std::string head =
      R"(data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,)"
      R"("model":"tiny","choices":[)";
  EXPECT_EQ(
      out,
      absl::StrCat(
          head, R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)",
          R"("finish_reason":null}],"usage":null})", "\n\n",  //
          head, R"({"index":0,"delta":{"content":"Hel\"lo"},"logprobs":null,)",
          R"("finish_reason":null}],"usage":null})", "\n\n",  //
          head, R"({"index":0,"delta":{"content":"!"},"logprobs":null,"finish_reason":"stop"}],)",
          R"("usage":null})", "\n\n",  //
          head, R"(],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,)",
          R"("prompt_tokens_details":{"cached_tokens":4},)",
          R"("completion_tokens_details":{"reasoning_tokens":0}}})", "\n\n",  //
          "data: [DONE]\n\n"));
}

TEST(OpenAiReplyTest, EveryChoiceBeginsWithItsRoleOnce) {
  OpenAiReply reply(Info(OpenAiKind::kChat), 2);
  std::string out;
  for (int i = 0; i < 3; ++i) {
    reply.AppendChunk(out, Delta(0, "a"));
    reply.AppendChunk(out, Delta(1, "b"));
  }
  size_t roles = 0;
  for (size_t at = out.find("\"role\""); at != std::string::npos;
       at = out.find("\"role\"", at + 1)) {
    ++roles;
  }
  EXPECT_EQ(roles, 2u);
  EXPECT_EQ(out.find("\"usage\""), std::string::npos) << "nobody asked for it";
}

TEST(OpenAiReplyTest, ACompletionStream) {
  OpenAiReply reply(Info(OpenAiKind::kCompletion), 1);
  std::string out;
  reply.AppendChunk(out, Delta(0, "x", FinishReason::kLength));
  EXPECT_EQ(out, R"(data: {"id":"chatcmpl-1","object":"text_completion","created":1700000000,)"
                 R"("model":"tiny","choices":[{"index":0,"text":"x","logprobs":null,)"
                 R"("finish_reason":"length"}]})"
                 "\n\n");
}

TEST(OpenAiReplyTest, WholeBodies) {
  OpenAiReply chat(Info(OpenAiKind::kChat), 2);
  const std::vector<OpenAiChoice> choices{{.text = "a", .finish = FinishReason::kStop},
                                          {.text = "", .finish = FinishReason::kLength}};
  EXPECT_EQ(chat.Body(choices, {.prompt_tokens = 1, .completion_tokens = 2}),
            R"({"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"tiny",)"
            R"("choices":[{"index":0,"message":{"role":"assistant","content":"a","refusal":null},)"
            R"("logprobs":null,"finish_reason":"stop"},{"index":1,"message":{"role":"assistant",)"
            R"("content":"","refusal":null},"logprobs":null,"finish_reason":"length"}],"usage":)"
            R"({"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":)"
            R"({"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}})");
}

TEST(OpenAiReplyTest, CallsOfTools) {
  OpenAiReply chat(Info(OpenAiKind::kChat), 1);
  const OpenAiChoice choice{
      .reasoning = "hm",
      .tool_calls = {{.index = 0, .id = "c1", .name = "f", .arguments = R"({"a": 1})"}},
      .finish = FinishReason::kStop};
  const json::value body = json::parse(chat.Body({choice}, {.reasoning_tokens = 7}));
  const json::value& message = body.at("choices").at(0).at("message");
  EXPECT_TRUE(message.at("content").is_null());
  EXPECT_EQ(message.at("reasoning_content").as_string(), "hm");
  EXPECT_EQ(json::serialize(message.at("tool_calls")),
            R"([{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}}])");
  EXPECT_EQ(body.at("choices").at(0).at("finish_reason").as_string(), "tool_calls");
  EXPECT_EQ(body.at("usage").at("completion_tokens_details").at("reasoning_tokens").as_int64(), 7);
}

TEST(OpenAiReplyTest, StreamedCallsSayTheirNameOnce) {
  OpenAiReply chat(Info(OpenAiKind::kChat), 1);
  std::string out;
  GenerationDelta delta;
  delta.tool_calls = {{.index = 0, .id = "c1", .name = "f", .arguments = "{"}};
  chat.AppendChunk(out, delta);
  delta.tool_calls = {{.index = 0, .arguments = "}"}};
  chat.AppendChunk(out, delta);
  delta.tool_calls.clear();
  delta.finish = FinishReason::kStop;
  chat.AppendChunk(out, delta);
  EXPECT_NE(out.find(R"("delta":{"tool_calls":[{"index":0,"id":"c1","type":"function",)"
                     R"("function":{"name":"f","arguments":"{"}}]})"),
            std::string::npos)
      << out;
  EXPECT_NE(out.find(R"("delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]})"),
            std::string::npos)
      << out;
  EXPECT_NE(out.find(R"("finish_reason":"tool_calls")"), std::string::npos) << out;
}

TEST(OpenAiReplyTest, EchoedPromptsHaveLogprobsFromTheSecondTokenOn) {
  OpenAiReplyInfo info = Info(OpenAiKind::kCompletion);
  info.logprobs = true;
  info.top_logprobs = 1;
  OpenAiReply reply(info, 1);
  const PositionLogprobs position{.chosen = {.token = 11, .logprob = -0.5f},
                                  .top = {{.token = 11, .logprob = -0.5f}}};
  const json::value body =
      json::parse(reply.Body({{.text = "xy", .logprobs = {position}, .first_token = 10}}, {}));
  const json::value& logprobs = body.at("choices").at(0).at("logprobs");
  EXPECT_EQ(logprobs.at("tokens").as_array().size(), 2u);
  EXPECT_TRUE(logprobs.at("token_logprobs").at(0).is_null());
  EXPECT_TRUE(logprobs.at("top_logprobs").at(0).is_null());
  EXPECT_EQ(logprobs.at("token_logprobs").at(1).to_number<double>(), -0.5);
  EXPECT_EQ(logprobs.at("text_offset").at(1).as_int64(), 1);
}

TEST(OpenAiReplyTest, LogprobsCarryTokensAndTheirBytes) {
  const auto ids = TinyModel()->tokenizer->Encode("世");
  ASSERT_TRUE(ids.ok());
  const PositionLogprobs position{
      .chosen = {.token = (*ids)[0], .logprob = -0.5f},
      .top = {{.token = (*ids)[0], .logprob = -0.5f}, {.token = 10, .logprob = -1.25f}}};
  for (const OpenAiKind kind : {OpenAiKind::kChat, OpenAiKind::kCompletion}) {
    OpenAiReplyInfo info = Info(kind);
    info.logprobs = true;
    info.top_logprobs = 2;
    info.prompt_logprobs = true;
    OpenAiReply reply(info, 1);
    const json::value body = json::parse(
        reply.Body({{.text = "x", .logprobs = {position}, .prompt_logprobs = {position}}}, {}));
    const json::value& logprobs = body.at("choices").at(0).at("logprobs");
    if (kind == OpenAiKind::kChat) {
      const json::value& first = logprobs.at("content").at(0);
      EXPECT_EQ(first.at("logprob").to_number<double>(), -0.5);
      EXPECT_EQ(first.at("bytes").as_array().size(),
                TinyModel()->tokenizer->TokenBytes((*ids)[0]).size());
      EXPECT_EQ(first.at("top_logprobs").as_array().size(), 2u);
      EXPECT_EQ(body.at("prompt_logprobs").as_array().size(), 2u);
    } else {
      EXPECT_EQ(logprobs.at("token_logprobs").at(0).to_number<double>(), -0.5);
      EXPECT_EQ(logprobs.at("tokens").as_array().size(), 1u);
      EXPECT_EQ(logprobs.at("text_offset").at(0).as_int64(), 0);
      EXPECT_EQ(logprobs.at("top_logprobs").at(0).as_object().size(), 2u);
      EXPECT_TRUE(body.at("choices").at(0).at("prompt_logprobs").at(0).is_null());
    }
  }
}

TEST(OpenAiReplyTest, ErrorsInOpenAisForm) {
  EXPECT_EQ(OpenAiErrorBody(BadField("n", "too \"many\"")),
            R"({"error":{"message":"too \"many\"","type":"invalid_request_error","param":"n",)"
            R"("code":null}})");
  const HttpReply busy =
      ErrorReply(WithRetryAfter(absl::ResourceExhaustedError("busy"), absl::Milliseconds(1200)));
  EXPECT_EQ(busy.status, 429);
  ASSERT_EQ(busy.headers.size(), 1u);
  EXPECT_EQ(busy.headers[0].second, "2");
  EXPECT_EQ(ErrorReply(absl::UnauthenticatedError("x")).status, 401);
  EXPECT_EQ(ErrorReply(absl::DeadlineExceededError("x")).status, 504);
  EXPECT_EQ(ErrorReply(absl::UnavailableError("x")).status, 503);
  EXPECT_EQ(ErrorReply(absl::InternalError("x")).status, 500);
  std::string out;
  OpenAiReply::AppendError(out, absl::UnavailableError("lost"));
  EXPECT_EQ(out,
            "data: {\"error\":{\"message\":\"lost\",\"type\":\"service_unavailable\","
            "\"param\":null,\"code\":null}}\n\n");
}

TEST(DeltaBufferTest, WhatWaitsGrowsTogetherAndIsBounded) {
  DeltaBuffer buffer(/*bytes_max=*/100);
  EXPECT_TRUE(buffer.Push({.choice = 0, .text = "a", .tokens = {1}}).ok());
  EXPECT_TRUE(buffer.Push({.choice = 0, .text = "b", .tokens = {2}}).ok());
  EXPECT_TRUE(buffer.Push({.choice = 1, .text = "c", .tokens = {3}}).ok());
  EXPECT_TRUE(
      buffer.Push({.choice = 1, .text = "d", .tokens = {4}, .finish = FinishReason::kStop}).ok());
  const auto first = buffer.Pop();
  EXPECT_EQ(first->text, "ab");
  EXPECT_EQ(first->tokens, (std::vector<TokenId>{1, 2}));
  const auto second = buffer.Pop();
  EXPECT_EQ(second->text, "cd");
  EXPECT_EQ(second->finish, FinishReason::kStop);
  EXPECT_FALSE(buffer.Pop().has_value());
  EXPECT_TRUE(buffer.Push({.text = std::string(90, 'x')}).ok());
  EXPECT_EQ(buffer.Push({.text = std::string(20, 'x')}).code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace fathom::master
