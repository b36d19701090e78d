#include "cli/chaos/question.h"

#include <boost/json.hpp>

#include "absl/strings/str_cat.h"
#include "cli/load/simulated_text.h"
#include "common/random.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr int32_t kTopLogprobs = 2;
// Token ids that every model has, and that mean nothing special.
constexpr TokenId kTokenLow = 100;
constexpr TokenId kTokenHigh = 3000;
constexpr char kSchema[] =
    R"({"type":"object","properties":{"names":{"type":"array","items":{"type":"string","maxLength":24},)"
    R"("minItems":4,"maxItems":8},"n":{"type":"integer"}},"required":["names","n"],)"
    R"("additionalProperties":false})";

json::array Messages(const Question& question) {
  return {json::object{{"role", "user"}, {"content", question.chat}}};
}

int32_t Between(Random& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random.Next() % static_cast<uint64_t>(high - low + 1));
}

}  // namespace

const char* NameOf(Form form) {
  switch (form) {
    case Form::kStream:
      return "stream";
    case Form::kOneShot:
      return "one-shot";
    case Form::kGrpc:
      return "grpc";
  }
  return "";
}

HttpQuestion ToHttp(const Question& question, const std::string& model, bool stream) {
  json::object body{
      {"model", model}, {"temperature", question.temperature}, {"max_tokens", question.max_tokens}};
  if (question.tokens.empty()) {
    body["messages"] = Messages(question);
  } else {
    body["prompt"] = json::array(question.tokens.begin(), question.tokens.end());
  }
  if (stream) {
    body["stream"] = true;
    body["stream_options"] = json::object{{"include_usage", true}};
  }
  if (question.seed) body["seed"] = *question.seed;
  if (question.n > 1) body["n"] = question.n;
  if (question.ignore_eos) body["ignore_eos"] = true;
  if (question.logprobs) {
    body["logprobs"] = true;
    body["top_logprobs"] = kTopLogprobs;
  }
  if (question.frequency_penalty != 0) body["frequency_penalty"] = question.frequency_penalty;
  if (!question.schema.empty()) {
    body["response_format"] = json::object{
        {"type", "json_schema"},
        {"json_schema",
         json::object{{"name", "s"}, {"strict", true}, {"schema", json::parse(question.schema)}}}};
  }
  if (!question.stop.empty()) {
    body["stop"] = json::array(question.stop.begin(), question.stop.end());
  }
  return {question.tokens.empty() ? "/v1/chat/completions" : "/v1/completions",
          json::serialize(body)};
}

v1::GenerateRequest ToGrpc(const Question& question, const std::string& model) {
  v1::GenerateRequest request;
  request.set_model(model);
  if (question.tokens.empty()) {
    request.mutable_chat()->set_messages_json(json::serialize(Messages(question)));
  } else {
    request.mutable_tokens()->mutable_ids()->Add(question.tokens.begin(), question.tokens.end());
  }
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(question.temperature);
  sampling.set_frequency_penalty(question.frequency_penalty);
  if (question.seed) sampling.set_seed(*question.seed);
  v1::Stop& stop = *request.mutable_stop();
  stop.set_max_tokens(question.max_tokens);
  stop.set_ignore_eos(question.ignore_eos);
  for (const std::string& text : question.stop) stop.add_strings(text);
  if (!question.schema.empty()) request.mutable_grammar()->set_json_schema(question.schema);
  if (question.logprobs) {
    request.mutable_logprobs()->set_output(true);
    request.mutable_logprobs()->set_output_top(kTopLogprobs);
  }
  request.set_n(question.n);
  return request;
}

std::vector<Question> RealQuestions() {
  const std::vector<std::string> chats = {
      "Tell me a story about a whale and a harbor.", "What is Fathom?",
      "Write a letter to a lighthouse keeper.", "List the things a sailor needs."};
  std::vector<Question> questions;
  for (size_t i = 0; i < chats.size(); ++i) {
    const auto add = [&](const std::string& kind, Question question) {
      question.name = absl::StrCat(kind, "-", i);
      question.chat = chats[i];
      questions.push_back(std::move(question));
    };
    const auto seed = [&](uint64_t base) { return base + 100 * i; };
    add("greedy", {.max_tokens = 300});
    add("sampled", {.temperature = 1, .seed = seed(7), .max_tokens = 250});
    add("penalty",
        {.temperature = 0.8F, .seed = seed(3), .max_tokens = 200, .frequency_penalty = 0.5F});
    add("choices", {.temperature = 1, .seed = seed(11), .max_tokens = 120, .n = 3});
    add("logprobs", {.temperature = 0.7F, .seed = seed(5), .max_tokens = 150, .logprobs = true});
    add("schema", {.temperature = 1,
                   .seed = seed(13),
                   .max_tokens = 400,
                   .ignore_eos = false,
                   .schema = kSchema});
    add("stop", {.temperature = 1,
                 .seed = seed(17),
                 .max_tokens = 250,
                 .stop = {"zzzz", "harbor lights", " and"}});
  }
  return questions;
}

Question SimulatedQuestion(const SimulatedShape& shape, uint64_t seed, uint64_t index) {
  SeededRandom random(seed * 0x9e3779b97f4a7c15ULL + index);
  Question question{.name = absl::StrCat("simulated-", index)};
  question.tokens.resize(static_cast<size_t>(Between(random, shape.input_low, shape.input_high)));
  for (TokenId& token : question.tokens) token = Between(random, kTokenLow, kTokenHigh);
  question.max_tokens = Between(random, shape.output_low, shape.output_high);
  return question;
}

Content SimulatedAnswer(const Question& question) {
  const uint64_t history = HistoryOf(question.tokens);
  Content content{.prompt_tokens = static_cast<int64_t>(question.tokens.size()),
                  .output_tokens = question.max_tokens,
                  .has_usage = true};
  ChoiceContent& choice = content.choices[0];
  for (int32_t i = 0; i < question.max_tokens; ++i) {
    choice.text += kSimulatedAlphabet[SimulatedLetter(history, i)];
  }
  choice.finish = "length";
  return content;
}

}  // namespace fathom::cli
