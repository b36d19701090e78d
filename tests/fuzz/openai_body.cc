// Bodies of OpenAI's endpoints and of /tokenize: what is taken is within its bounds, what goes to
// template and grammar is JSON, and a body that another writer spells anew means the same.

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <string>
#include <string_view>
#include <variant>

#include "common/check.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "fuzz/model.h"
#include "master/api/fields.h"
#include "master/api/openai_request.h"
#include "master/api/tokenize_call.h"
#include "master/serving/prompt.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

// Doubles of another spelling may differ in their last bit.
bool Alike(const json::value& a, const json::value& b) {
  if (a.is_double() && b.is_double()) {
    const double x = a.as_double(), y = b.as_double();
    return x == y || std::abs(x - y) <= 1e-14 * std::max(std::abs(x), std::abs(y));
  }
  if (a.is_array() && b.is_array()) {
    const auto same = [](const auto& x, const auto& y) { return Alike(x, y); };
    return std::equal(a.as_array().begin(), a.as_array().end(), b.as_array().begin(),
                      b.as_array().end(), same);
  }
  if (!a.is_object() || !b.is_object()) return a == b;
  if (a.as_object().size() != b.as_object().size()) return false;
  for (const json::key_value_pair& member : a.as_object()) {
    const json::value* other = b.as_object().if_contains(member.key());
    if (other == nullptr || !Alike(member.value(), *other)) return false;
  }
  return true;
}

json::value ParseOwn(std::string_view text) {
  json::parse_options options;
  options.max_depth = 128;
  boost::system::error_code error;
  json::value value = json::parse({text.data(), text.size()}, error, {}, options);
  FATHOM_CHECK(!error, "what the template gets is no JSON");
  return value;
}

void CheckSampling(const SamplingParams& sampling) {
  FATHOM_CHECK(sampling.temperature >= 0 && sampling.temperature <= 100, "temperature");
  FATHOM_CHECK(sampling.top_p > 0 && sampling.top_p <= 1, "top_p");
  FATHOM_CHECK(sampling.min_p >= 0 && sampling.min_p <= 1, "min_p");
  FATHOM_CHECK(sampling.top_k >= 0, "top_k");
  FATHOM_CHECK(sampling.repetition_penalty > 0, "repetition_penalty");
  FATHOM_CHECK(std::abs(sampling.presence_penalty) <= 2, "presence_penalty");
  FATHOM_CHECK(std::abs(sampling.frequency_penalty) <= 2, "frequency_penalty");
  for (const LogitBias& bias : sampling.logit_bias) {
    FATHOM_CHECK(bias.token >= 0 && std::abs(bias.bias) <= 100, "logit_bias");
  }
}

void CheckGeneration(const GenerationRequest& request, const OpenAiBounds& bounds) {
  CheckSampling(request.sampling);
  FATHOM_CHECK(request.n >= 1 && request.n <= bounds.choices, "n");
  FATHOM_CHECK(request.timeout > absl::ZeroDuration() && request.timeout <= bounds.timeout_max,
               "timeout");
  FATHOM_CHECK(request.stop.min_tokens >= 0 && request.stop.max_tokens >= 0, "tokens");
  for (const std::string& stop : request.stop_strings) FATHOM_CHECK(!stop.empty(), "empty stop");
  if (request.grammar) FATHOM_CHECK(!request.grammar->source.empty(), "empty grammar");
  const auto* chat = std::get_if<ChatPrompt>(&request.prompt);
  if (chat == nullptr) return;
  FATHOM_CHECK(ParseOwn(chat->messages_json).is_array(), "messages are no array");
  if (!chat->tools_json.empty()) ParseOwn(chat->tools_json);
  if (!chat->template_args_json.empty()) {
    FATHOM_CHECK(ParseOwn(chat->template_args_json).is_object(), "arguments are no object");
  }
}

void CheckSame(const GenerationRequest& a, const GenerationRequest& b) {
  FATHOM_CHECK(a.prompt.index() == b.prompt.index() && a.n == b.n, "another request");
  FATHOM_CHECK(a.tool_use.tools.size() == b.tool_use.tools.size(), "other tools");
  const auto* chat = std::get_if<ChatPrompt>(&a.prompt);
  if (chat == nullptr) return;
  const auto& other = std::get<ChatPrompt>(b.prompt);
  FATHOM_CHECK(Alike(ParseOwn(chat->messages_json), ParseOwn(other.messages_json)),
               "other messages");
}

void CheckPrompt(const GenerationRequest& request) {
  const auto prepared = PreparePrompt(request);
  fuzz::CheckSound(10, prepared.status());
  if (!prepared.ok()) return;
  FATHOM_CHECK(!prepared->tokens.empty() && prepared->max_tokens >= 1, "nothing to do");
  FATHOM_CHECK(prepared->cost >= static_cast<int64_t>(prepared->tokens.size()), "a wrong cost");
}

void CheckRequest(OpenAiKind kind, std::string_view body) {
  const OpenAiBounds bounds;
  const Catalog& catalog = fuzz::TestCatalog();
  const auto request = ParseOpenAiRequest(kind, body, catalog, bounds);
  fuzz::CheckSound(static_cast<uint64_t>(kind), request.status());
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = 64;
  const json::value value = json::parse({body.data(), body.size()}, error, {}, options);
  if (!error) {
    const std::string anew = json::serialize(value);
    const auto again = ParseOpenAiRequest(kind, anew, catalog, bounds);
    FATHOM_CHECK(again.ok() == request.ok(), "another spelling, another outcome");
    for (size_t i = 0; request.ok() && i < request->generations.size(); ++i) {
      CheckSame(request->generations[i], again->generations.at(i));
    }
  }
  if (!request.ok()) return;
  FATHOM_CHECK(request->model != nullptr && !request->generations.empty(), "nothing to do");
  FATHOM_CHECK(request->echo.empty() || request->echo.size() == request->generations.size(),
               "echo");
  for (const GenerationRequest& generation : request->generations) {
    CheckGeneration(generation, bounds);
    CheckPrompt(generation);
  }
}

void CheckReply(uint64_t place, const absl::StatusOr<std::string>& reply) {
  fuzz::CheckSound(place, reply.status());
  if (reply.ok()) FATHOM_CHECK(ParseOwn(*reply).is_object(), "a reply that is no object");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  CheckRequest(OpenAiKind::kChat, body);
  CheckRequest(OpenAiKind::kCompletion, body);
  CheckReply(20, TokenizeBody(body, fuzz::TestCatalog()));
  CheckReply(21, DetokenizeBody(body, fuzz::TestCatalog()));
  return 0;
}

}  // namespace fathom::master
