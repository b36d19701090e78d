#include "master/api/openai_request.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/json_text.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/fields.h"
#include "master/api/find_model.h"
#include "master/api/openai_prompt.h"
#include "master/api/sampling_fields.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kStopTokensMax = 64;
constexpr size_t kLogitBiasMax = 1024;
constexpr size_t kGrammarBytesMax = 256 * 1024;
constexpr size_t kNameBytesMax = 256;
constexpr int32_t kTopLogprobsMax = 20;
constexpr int32_t kCompletionTokensDefault = 16;

void ReadLogitBias(Fields& fields, SamplingParams& sampling) {
  const json::object* bias = fields.Object("logit_bias");
  if (bias == nullptr) return;
  if (bias->size() > kLogitBiasMax) {
    return fields.Fail("logit_bias",
                       absl::StrCat("must not have more than ", kLogitBiasMax, " tokens"));
  }
  for (const json::key_value_pair& member : *bias) {
    const std::string key(member.key());
    LogitBias entry;
    const json::value& value = member.value();
    if (!absl::SimpleAtoi(key, &entry.token) || entry.token < 0 || !value.is_number()) {
      return fields.Fail("logit_bias", "must map token ids to numbers");
    }
    const auto number = value.to_number<double>();
    if (!(number >= -100 && number <= 100)) {
      return fields.Fail("logit_bias", "biases must be between -100 and 100");
    }
    entry.bias = static_cast<float>(number);
    sampling.logit_bias.push_back(entry);
  }
}

void ReadEnd(Fields& fields, OpenAiKind kind, bool echo, GenerationRequest& request) {
  StopConditions& stop = request.stop;
  if (kind == OpenAiKind::kCompletion) stop.max_tokens = kCompletionTokensDefault;
  fields.Read("max_tokens", int64_t{echo ? 0 : 1}, int64_t{kTokensMax}, stop.max_tokens);
  if (kind == OpenAiKind::kChat) {
    fields.Read("max_completion_tokens", int64_t{1}, int64_t{kTokensMax}, stop.max_tokens);
  }
  ReadStop(fields, request);
  if (const json::array* ids = fields.Array("stop_token_ids")) {
    if (ids->size() > kStopTokensMax) {
      return fields.Fail("stop_token_ids",
                         absl::StrCat("must not have more than ", kStopTokensMax, " tokens"));
    }
    for (const json::value& id : *ids) {
      if (!id.is_int64() || id.as_int64() < 0 ||
          id.as_int64() > std::numeric_limits<TokenId>::max()) {
        return fields.Fail("stop_token_ids", "must be token ids");
      }
      stop.stop_token_ids.push_back(static_cast<TokenId>(id.as_int64()));
    }
  }
}

void ReadLogprobs(Fields& fields, bool echo, OpenAiRequest& out, LogprobParams& logprobs) {
  if (out.kind == OpenAiKind::kChat) {
    fields.Read("logprobs", out.logprobs);
    if (fields.Read("top_logprobs", int64_t{0}, int64_t{kTopLogprobsMax}, out.top_logprobs) &&
        !out.logprobs && out.top_logprobs > 0) {
      fields.Fail("top_logprobs", "needs logprobs to be true");
    }
  } else {
    out.logprobs = fields.Read("logprobs", int64_t{0}, int64_t{kTopLogprobsMax}, out.top_logprobs);
  }
  int32_t prompt = 0;
  if (fields.Read("prompt_logprobs", int64_t{0}, int64_t{kTopLogprobsMax}, prompt)) {
    out.prompt_logprobs = true;
    logprobs.prompt = prompt;
    if (out.stream) fields.Fail("prompt_logprobs", "is not served in streams");
  }
  if (echo && out.logprobs) {
    logprobs.prompt = std::max(prompt, out.top_logprobs);
    if (out.stream) fields.Fail("echo", "is not served with logprobs in streams");
  }
  logprobs.output = out.logprobs;
  logprobs.output_top = out.top_logprobs;
}

std::string SchemaOf(Fields& fields, std::string_view body, const json::object& format) {
  const json::value* wrapper = format.if_contains("json_schema");
  const json::object* inner = wrapper == nullptr ? nullptr : wrapper->if_object();
  const json::value* schema = inner == nullptr ? nullptr : inner->if_contains("schema");
  if (schema == nullptr || !schema->is_object()) {
    fields.Fail("response_format", "needs json_schema.schema to be an object");
    return {};
  }
  // Cut from the body where possible: order of properties is order of output.
  auto raw = RawMember(body, "response_format");
  if (raw) raw = RawMember(*raw, "json_schema");
  if (raw) raw = RawMember(*raw, "schema");
  return raw ? std::string(*raw) : json::serialize(*schema);
}

std::optional<GrammarSpec> ReadResponseFormat(Fields& fields, std::string_view body) {
  const json::object* format = fields.Object("response_format");
  if (format == nullptr) return std::nullopt;
  const json::value* type = format->if_contains("type");
  if (type != nullptr && type->is_string()) {
    if (type->as_string() == "text") return std::nullopt;
    if (type->as_string() == "json_object") {
      return GrammarSpec{GrammarKind::kJsonSchema, R"({"type":"object"})"};
    }
    if (type->as_string() == "json_schema") {
      return GrammarSpec{GrammarKind::kJsonSchema, SchemaOf(fields, body, *format)};
    }
  }
  fields.Fail("response_format", "type must be text, json_object or json_schema");
  return std::nullopt;
}

// Our own: {"type": "json_schema" | "regex" | "lark", "value": ...}.
std::optional<GrammarSpec> ReadGrammar(Fields& fields, std::string_view body) {
  const json::object* object = fields.Object("grammar");
  if (object == nullptr) return std::nullopt;
  Fields inner(*object, "grammar.");
  std::string type;
  inner.Read("type", kNameBytesMax, type);
  GrammarSpec spec;
  const json::value* value = inner.Find("value");
  if (type == "json_schema" && value != nullptr && !value->is_string()) {
    auto raw = RawMember(body, "grammar");
    if (raw) raw = RawMember(*raw, "value");
    spec.source = raw ? std::string(*raw) : json::serialize(*value);
  } else {
    inner.Read("value", kGrammarBytesMax, spec.source);
  }
  if (type == "json_schema") {
    spec.kind = GrammarKind::kJsonSchema;
  } else if (type == "regex") {
    spec.kind = GrammarKind::kRegex;
  } else if (type == "lark") {
    spec.kind = GrammarKind::kLark;
  } else {
    inner.Fail("type", "must be json_schema, regex or lark");
  }
  if (spec.source.empty()) inner.Fail("value", "is required");
  inner.CheckUnread();
  fields.Keep(inner.status());
  return spec;
}

void ReadConstraint(Fields& fields, std::string_view body, GenerationRequest& request) {
  request.grammar = ReadResponseFormat(fields, body);
  std::optional<GrammarSpec> own = ReadGrammar(fields, body);
  if (own && request.grammar) fields.Fail("grammar", "excludes response_format");
  if (own) request.grammar = std::move(own);
  if (request.grammar && request.grammar->source.size() > kGrammarBytesMax) {
    fields.Fail("response_format",
                absl::StrCat("must not have more than ", kGrammarBytesMax, " bytes"));
  }
}

void ReadStream(Fields& fields, OpenAiRequest& out) {
  fields.Read("stream", out.stream);
  const json::object* options = fields.Object("stream_options");
  if (options == nullptr) return;
  if (!out.stream) return fields.Fail("stream_options", "is for streams only");
  Fields inner(*options, "stream_options.");
  inner.Read("include_usage", out.include_usage);
  // Pads chunks against traffic analysis; harmless to leave out.
  inner.Ignore({"include_obfuscation", "continuous_usage_stats"});
  inner.CheckUnread();
  fields.Keep(inner.status());
}

// What OpenAI knows and we do not: ignored where no answer changes by it, refused otherwise.
void ReadForeign(Fields& fields, OpenAiKind kind) {
  fields.Ignore({"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
                 "prompt_cache_retention"});
  bool flag = false;
  if (kind == OpenAiKind::kChat) {
    fields.Ignore({"verbosity"});
    fields.Read("store", flag);
    if (flag) fields.Fail("store", "answers are not stored here");
    for (const std::string_view name : {"functions", "function_call"}) {
      fields.Refuse(name, "is deprecated; use tools");
    }
    for (const std::string_view name : {"audio", "prediction", "web_search_options"}) {
      fields.Refuse(name, "is not served here");
    }
    const json::array* modalities = fields.Array("modalities");
    if (modalities != nullptr && *modalities != json::array{"text"}) {
      fields.Fail("modalities", "only text is served");
    }
    return;
  }
  fields.Refuse("suffix", "is not served here");
}

std::string EchoOf(const ServedModelInfo& model, const PromptInput& prompt) {
  if (const auto* text = std::get_if<TextPrompt>(&prompt)) return text->text;
  // Ids out of the vocabulary are refused later, with a better message.
  auto text = model.tokenizer->Decode(std::get<TokenPrompt>(prompt).ids,
                                      /*skip_special_tokens=*/false);
  return text.ok() ? *std::move(text) : std::string();
}

}  // namespace

absl::StatusOr<std::string> ReadModelName(Fields& fields) {
  std::string name;
  if (!fields.Read("model", kNameBytesMax, name)) fields.Fail("model", "is required");
  RETURN_IF_ERROR(fields.status());
  return name;
}

absl::StatusOr<OpenAiRequest> ParseOpenAiRequest(OpenAiKind kind, std::string_view body,
                                                 const Catalog& catalog, const OpenAiBounds& bounds,
                                                 const ModelDraw& draw) {
  ASSIGN_OR_RETURN(const json::object object, ParseJsonObject(body));
  Fields fields(object);
  OpenAiRequest out;
  out.kind = kind;
  ASSIGN_OR_RETURN(const std::string name, ReadModelName(fields));
  ASSIGN_OR_RETURN(out.model, FindNamedModel(catalog, name, draw, "model"));
  out.routed = catalog.IsRoute(name);

  GenerationRequest request;
  request.model = out.model;
  ReadStream(fields, out);
  ReadSampling(fields, out.model->defaults, request);
  ReadLogitBias(fields, request.sampling);
  bool echo = false;
  if (kind == OpenAiKind::kCompletion) fields.Read("echo", echo);
  ReadEnd(fields, kind, echo, request);
  if (echo && request.stop.max_tokens == 0) {
    out.only_echo = true;
    request.stop.max_tokens = 1;
  }
  ReadLogprobs(fields, echo, out, request.logprobs);
  ReadConstraint(fields, body, request);
  fields.Read("n", int64_t{1}, int64_t{bounds.choices}, request.n);
  fields.Read("priority", int64_t{0}, int64_t{kPriorityMax}, request.priority);
  if (kind == OpenAiKind::kCompletion) {
    int32_t best_of = request.n;
    fields.Read("best_of", int64_t{1}, int64_t{bounds.choices}, best_of);
    if (best_of != request.n) fields.Fail("best_of", "must equal n");
  }
  fields.Read("include_raw_output", request.include_raw_output);
  request.timeout = bounds.timeout_max;
  float timeout_seconds = 0;
  const auto timeout_max = static_cast<float>(absl::ToDoubleSeconds(bounds.timeout_max));
  if (fields.Read("timeout", 0.001f, std::numeric_limits<float>::max(), timeout_seconds)) {
    request.timeout = absl::Seconds(std::min(timeout_seconds, timeout_max));
  }
  ReadForeign(fields, kind);

  std::vector<PromptInput> prompts;
  if (kind == OpenAiKind::kChat) {
    ReadChat(fields, body, request);
    prompts.push_back(std::exchange(request.prompt, PromptInput()));
  } else {
    prompts = ReadPrompts(fields, static_cast<size_t>(bounds.choices / std::max(request.n, 1)));
  }
  fields.CheckUnread();
  RETURN_IF_ERROR(fields.status());
  for (PromptInput& prompt : prompts) {
    if (echo) out.echo.push_back(EchoOf(*out.model, prompt));
    out.generations.push_back(request);
    out.generations.back().prompt = std::move(prompt);
  }
  return out;
}

}  // namespace fathom::master
