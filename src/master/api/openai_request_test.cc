#include "master/api/openai_request.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

const Catalog& TestCatalog() {
  static const Catalog kCatalog = [] {
    auto model = std::make_shared<ServedModelInfo>();
    model->name = "m";
    model->context_length = 4096;
    model->vocab_size = 4096;
    model->defaults.temperature = 0.5f;
    model->defaults.top_k = 40;
    return Catalog({model});
  }();
  return kCatalog;
}

absl::StatusOr<OpenAiRequest> Chat(
    const std::string& rest, const std::string& messages = R"([{"role":"user","content":"hi"}])") {
  return ParseOpenAiRequest(
      OpenAiKind::kChat,
      absl::StrCat(R"({"model":"m","messages":)", messages, rest.empty() ? "" : ",", rest, "}"),
      TestCatalog(), {});
}

absl::StatusOr<OpenAiRequest> Completion(const std::string& rest,
                                         const std::string& prompt = R"("once")") {
  return ParseOpenAiRequest(
      OpenAiKind::kCompletion,
      absl::StrCat(R"({"model":"m","prompt":)", prompt, rest.empty() ? "" : ",", rest, "}"),
      TestCatalog(), {});
}

TEST(OpenAiRequestTest, DefaultsComeFromTheModel) {
  const auto chat = Chat("");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const GenerationRequest& request = chat->generations.at(0);
  EXPECT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_EQ(request.sampling.top_k, 40);
  EXPECT_EQ(request.sampling.top_p, 1.0f);
  EXPECT_EQ(request.stop.max_tokens, 0) << "what the context leaves";
  EXPECT_EQ(request.n, 1);
  EXPECT_FALSE(request.seed.has_value());
  EXPECT_FALSE(chat->stream);
  EXPECT_EQ(Completion("")->generations.at(0).stop.max_tokens, 16);
}

TEST(OpenAiRequestTest, EveryFieldArrives) {
  const auto chat = Chat(R"("temperature":0.25,"top_p":0.9,"top_k":7,"min_p":0.1,
    "presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.5,
    "logit_bias":{"5":-100,"6":2.5},"seed":18446744073709551615,"n":3,"stop":["a","b"],
    "stop_token_ids":[1,2],"max_completion_tokens":9,"min_tokens":2,"ignore_eos":true,
    "logprobs":true,"top_logprobs":4,"stream":true,"stream_options":{"include_usage":true},
    "include_raw_output":true,"user":"u","timeout":1.5,"metadata":{"a":"b"},"store":false)");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const GenerationRequest& request = chat->generations.at(0);
  EXPECT_EQ(request.sampling.temperature, 0.25f);
  EXPECT_EQ(request.sampling.top_p, 0.9f);
  EXPECT_EQ(request.sampling.top_k, 7);
  EXPECT_EQ(request.sampling.min_p, 0.1f);
  EXPECT_EQ(request.sampling.presence_penalty, 1);
  EXPECT_EQ(request.sampling.frequency_penalty, -1);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.5f);
  ASSERT_EQ(request.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(request.sampling.logit_bias[1].token, 6);
  EXPECT_EQ(request.sampling.logit_bias[1].bias, 2.5f);
  EXPECT_EQ(request.seed, 18446744073709551615u);
  EXPECT_EQ(request.n, 3);
  EXPECT_EQ(request.stop_strings, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request.stop.stop_token_ids, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(request.stop.max_tokens, 9);
  EXPECT_EQ(request.stop.min_tokens, 2);
  EXPECT_TRUE(request.stop.ignore_eos);
  EXPECT_TRUE(request.logprobs.output);
  EXPECT_EQ(request.logprobs.output_top, 4);
  EXPECT_TRUE(request.include_raw_output);
  EXPECT_EQ(request.timeout, absl::Milliseconds(1500));
  EXPECT_TRUE(chat->stream);
  EXPECT_TRUE(chat->include_usage);
}

TEST(OpenAiRequestTest, MessagesAndToolsKeepTheirBytes) {
  const std::string messages = R"([{"zz":1.10,"role":"user","content":"h\u00e9","a":1e2}])";
  const std::string tools =
      R"([{"type":"function","function":{"name":"f","parameters":{"b":0.1,"a":2}}}])";
  const auto chat = Chat(absl::StrCat(R"("tools":)", tools), messages);
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto& prompt = std::get<ChatPrompt>(chat->generations.at(0).prompt);
  EXPECT_EQ(prompt.messages_json, messages);
  EXPECT_EQ(prompt.tools_json, tools);
}

TEST(OpenAiRequestTest, TextPartsBecomeOneText) {
  const auto chat = Chat("", R"([{"name":"x","role":"user","content":[{"type":"text","text":"a"},
              {"type":"text","text":"b"}]}])");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(std::get<ChatPrompt>(chat->generations.at(0).prompt).messages_json,
            R"([{"name":"x","role":"user","content":"a\nb"}])");
}

TEST(OpenAiRequestTest, ToolsArriveWithTheirChoice) {
  const auto chat = Chat(R"("tools":[{"type":"function","function":{"name":"f"}}],)"
                         R"("tool_choice":"required","parallel_tool_calls":false)");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const GenerationRequest& request = chat->generations.at(0);
  EXPECT_EQ(request.tool_use.choice, ToolChoice::kRequired);
  EXPECT_FALSE(request.tool_use.parallel);
  EXPECT_EQ(request.tool_use.tools.at(0).name, "f");
  EXPECT_NE(std::get<ChatPrompt>(request.prompt).tools_json, "");
}

TEST(OpenAiRequestTest, TheTemplateHearsHowHardToThink) {
  const auto arguments = [](const std::string& rest) {
    const auto chat = Chat(rest);
    EXPECT_TRUE(chat.ok()) << chat.status();
    return std::get<ChatPrompt>(chat->generations.at(0).prompt).template_args_json;
  };
  EXPECT_EQ(arguments(""), "");
  EXPECT_EQ(arguments(R"("reasoning_effort":"low")"), R"({"reasoning_effort":"low"})");
  EXPECT_EQ(arguments(R"("reasoning_effort":"low","chat_template_kwargs":{})"),
            R"({"reasoning_effort":"low"})");
  EXPECT_EQ(arguments(R"("reasoning_effort":"low","chat_template_kwargs": {"a":1.0})"),
            R"({"reasoning_effort":"low","a":1.0})");
}

TEST(OpenAiRequestTest, EchoKnowsThePrompt) {
  const auto echoed = Completion(R"("echo":true,"max_tokens":0,"logprobs":2)", R"(["a","b"])");
  ASSERT_TRUE(echoed.ok()) << echoed.status();
  EXPECT_EQ(echoed->echo, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(echoed->only_echo);
  EXPECT_EQ(echoed->generations.at(0).stop.max_tokens, 1);
  EXPECT_EQ(echoed->generations.at(0).logprobs.prompt, 2);
  EXPECT_FALSE(echoed->prompt_logprobs);
  EXPECT_TRUE(Completion(R"("echo":false)")->echo.empty());
}

TEST(OpenAiRequestTest, PromptsInAllTheirForms) {
  const auto count = [](const std::string& prompt) {
    const auto parsed = Completion("", prompt);
    EXPECT_TRUE(parsed.ok()) << prompt << parsed.status();
    return parsed.ok() ? parsed->generations.size() : 0;
  };
  EXPECT_EQ(count(R"("text")"), 1u);
  EXPECT_EQ(count(R"(["a","b","c"])"), 3u);
  EXPECT_EQ(count("[1,2,3]"), 1u);
  EXPECT_EQ(count("[[1,2],[3]]"), 2u);
  EXPECT_EQ(std::get<TokenPrompt>(Completion("", "[1,2,3]")->generations.at(0).prompt).ids,
            (std::vector<TokenId>{1, 2, 3}));
}

TEST(OpenAiRequestTest, GrammarsKeepTheOrderOfTheirSchema) {
  const std::string schema = R"({"type":"object","properties":{"z":{},"a":{"minimum":0.10}}})";
  const auto format = Chat(
      absl::StrCat(R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":)",
                   schema, "}}"));
  ASSERT_TRUE(format.ok()) << format.status();
  EXPECT_EQ(format->generations.at(0).grammar->source, schema);
  const auto own = Chat(absl::StrCat(R"("grammar":{"type":"json_schema","value":)", schema, "}"));
  EXPECT_EQ(own->generations.at(0).grammar->source, schema);
  const auto regex = Chat(R"("grammar":{"type":"regex","value":"[0-9]+"})");
  EXPECT_EQ(regex->generations.at(0).grammar->kind, GrammarKind::kRegex);
  EXPECT_FALSE(Chat(R"("response_format":{"type":"text"})")->generations.at(0).grammar);
}

struct Bad {
  const char* field;
  const char* json;
};

TEST(OpenAiRequestTest, BadFieldsAreNamed) {
  const Bad bad[] = {
      {"temperature", R"("temperature":"1")"},
      {"temperature", R"("temperature":-0.1)"},
      {"temperature", R"("temperature":1e300)"},
      {"top_p", R"("top_p":0)"},
      {"top_p", R"("top_p":1.01)"},
      {"min_p", R"("min_p":true)"},
      {"top_k", R"("top_k":1.5)"},
      {"presence_penalty", R"("presence_penalty":2.1)"},
      {"repetition_penalty", R"("repetition_penalty":0)"},
      {"logit_bias", R"("logit_bias":[])"},
      {"logit_bias", R"("logit_bias":{"x":1})"},
      {"logit_bias", R"("logit_bias":{"1":101})"},
      {"logit_bias", R"("logit_bias":{"-1":1})"},
      {"seed", R"("seed":1.5)"},
      {"seed", R"("seed":"7")"},
      {"n", R"("n":0)"},
      {"n", R"("n":17)"},
      {"n", R"("n":99999999999999999999)"},
      {"stop", R"("stop":"")"},
      {"stop", R"("stop":[1])"},
      {"stop",
       R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])"},
      {"stop_token_ids", R"("stop_token_ids":[-1])"},
      {"max_tokens", R"("max_tokens":0)"},
      {"max_tokens", R"("max_tokens":1e30)"},
      {"min_tokens", R"("min_tokens":-1)"},
      {"stream", R"("stream":1)"},
      {"stream_options", R"("stream_options":{})"},
      {"stream_options.include_usage", R"("stream":true,"stream_options":{"include_usage":1})"},
      {"stream_options.other", R"("stream":true,"stream_options":{"other":1})"},
      {"response_format", R"("response_format":{"type":"xml"})"},
      {"response_format", R"("response_format":{"type":"json_schema"})"},
      {"grammar.type", R"("grammar":{"type":"x","value":"y"})"},
      {"grammar.value", R"("grammar":{"type":"regex"})"},
      {"grammar",
       R"("grammar":{"type":"regex","value":"a"},"response_format":{"type":"json_object"})"},
      {"timeout", R"("timeout":0)"},
      {"chat_template_kwargs", R"("chat_template_kwargs":[])"},
      {"tools", R"("tools":{})"},
      {"tools", R"("tools":[{"type":"function"}])"},
      {"tool_choice", R"("tool_choice":"required")"},
      {"tool_choice", R"("tool_choice":{"type":"function","function":{"name":"f"}})"},
      {"top_logprobs", R"("top_logprobs":5)"},
      {"top_logprobs", R"("logprobs":true,"top_logprobs":21)"},
      {"logprobs", R"("logprobs":1)"},
      {"prompt_logprobs", R"("prompt_logprobs":1,"stream":true)"},
      {"functions", R"("functions":[])"},
      {"store", R"("store":true)"},
      {"audio", R"("audio":{})"},
      {"modalities", R"("modalities":["text","audio"])"},
      {"tempratur", R"("tempratur":1)"},
      {"prompt", R"("prompt":"x")"},
  };
  for (const Bad& entry : bad) {
    const auto parsed = Chat(entry.json);
    ASSERT_FALSE(parsed.ok()) << entry.json;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << entry.json;
    EXPECT_EQ(FailureParam(parsed.status()), entry.field) << entry.json;
  }
}

TEST(OpenAiRequestTest, BadMessagesAreNamed) {
  for (const char* messages :
       {"[]", "{}", R"("hi")", "[1]", R"([{}])", R"([{"role":1,"content":"x"}])",
        R"([{"role":"user"}])", R"([{"role":"user","content":null}])",
        R"([{"role":"user","content":5}])", R"([{"role":"user","content":[{"type":"image_url"}]}])",
        R"([{"role":"user","content":["x"]}])"}) {
    const auto parsed = Chat("", messages);
    ASSERT_FALSE(parsed.ok()) << messages;
    EXPECT_EQ(FailureParam(parsed.status()), "messages") << messages;
  }
  EXPECT_TRUE(Chat("", R"([{"role":"assistant","content":null,"tool_calls":[]}])").ok());
}

TEST(OpenAiRequestTest, BadCompletionsAreNamed) {
  const Bad bad[] = {{"suffix", R"("suffix":"x")"},
                     {"echo", R"("echo":1)"},
                     {"max_tokens", R"("max_tokens":0)"},
                     {"echo", R"("echo":true,"logprobs":1,"stream":true)"},
                     {"best_of", R"("best_of":2)"},
                     {"logprobs", R"("logprobs":true)"},
                     {"messages", R"("messages":[])"},
                     {"max_completion_tokens", R"("max_completion_tokens":5)"}};
  for (const Bad& entry : bad) {
    const auto parsed = Completion(entry.json);
    ASSERT_FALSE(parsed.ok()) << entry.json;
    EXPECT_EQ(FailureParam(parsed.status()), entry.field) << entry.json;
  }
  for (const char* prompt : {"1", "{}", "null", "[null]", R"([1,"a"])", R"(["a",1])", "[[1.5]]",
                             "[-1]", "[4294967296]", R"([["a"]])"}) {
    const auto parsed = Completion("", prompt);
    ASSERT_FALSE(parsed.ok()) << prompt;
    EXPECT_EQ(FailureParam(parsed.status()), "prompt") << prompt;
  }
}

TEST(OpenAiRequestTest, UnknownModelsAreNotFound) {
  const auto parsed = ParseOpenAiRequest(OpenAiKind::kChat, R"({"model":"gpt-9","messages":[]})",
                                         TestCatalog(), {});
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(FailureCode(parsed.status()), "model_not_found");
  EXPECT_FALSE(ParseOpenAiRequest(OpenAiKind::kChat, "{}", TestCatalog(), {}).ok());
}

TEST(OpenAiRequestTest, GarbageIsRefusedWithoutHarm) {
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  for (const std::string& body :
       {std::string(), std::string("null"), std::string("[]"), std::string("{"),
        std::string("{\"model\":\"\xff\"}"), deep, absl::StrCat(R"({"model":"m","x":)", deep, "}"),
        std::string(R"({"model":"m"} trailing)"), std::string(1, '\0')}) {
    const auto parsed = ParseOpenAiRequest(OpenAiKind::kChat, body, TestCatalog(), {});
    ASSERT_FALSE(parsed.ok()) << body.substr(0, 80);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Mutilated requests are accepted or refused; nothing else happens (run it under ASan).
TEST(OpenAiRequestTest, SurvivesMutilatedRequests) {
  const std::string seed = R"({"model":"m","messages":[{"role":"user","content":[{"type":"text",
    "text":"a\u00e9\ud83d\ude42"}]}],"tools":[{"type":"function","function":{"name":"f"}}],
    "tool_choice":{"type":"function","function":{"name":"f"}},"temperature":0.5,"n":2,
    "logit_bias":{"5":1.5},"stop":["x"],"response_format":{"type":"json_schema","json_schema":
    {"schema":{"type":"object"}}},"stream":true,"stream_options":{"include_usage":true}})";
  ASSERT_TRUE(ParseOpenAiRequest(OpenAiKind::kChat, seed, TestCatalog(), {}).ok());
  constexpr std::string_view kBytes = "{}[]\",:\\0123456789eE+-.tfn \x80\xff\x00u";
  SeededRandom random(2024);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string body = seed;
    for (uint64_t i = 0; i <= random.Next() % 4; ++i) {
      const size_t at = random.Next() % body.size();
      switch (random.Next() % 4) {
        case 0:
          body[at] = kBytes[random.Next() % kBytes.size()];
          break;
        case 1:
          body.erase(at, 1 + random.Next() % 8);
          break;
        case 2:
          body.insert(at, 1, kBytes[random.Next() % kBytes.size()]);
          break;
        default:
          body.insert(at, body.substr(random.Next() % body.size(), random.Next() % 20));
      }
      if (body.empty()) body = "{";
    }
    const OpenAiKind kind = random.Next() % 8 == 0 ? OpenAiKind::kCompletion : OpenAiKind::kChat;
    const auto parsed = ParseOpenAiRequest(kind, body, TestCatalog(), {});
    if (parsed.ok()) {
      ++accepted;
    } else {
      EXPECT_FALSE(Message(parsed.status()).empty());
    }
  }
  EXPECT_GT(accepted, 100) << "the mutilation is too coarse to test anything";
}

}  // namespace
}  // namespace fathom::master
