#include "master/models/served_model.h"

#include <algorithm>
#include <boost/json.hpp>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/models/routes.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kConfigBytesMax = 4 << 20;
constexpr int64_t kContextLengthMax = 1 << 26;

absl::StatusOr<json::object> ParseObject(const std::string& text, const std::string& path) {
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat(path, ": ", error.message()));
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  }
  return std::move(value.as_object());
}

absl::StatusOr<int32_t> PositiveInt(const json::object& object, const char* key,
                                    const std::string& path) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_int64() || value->as_int64() <= 0 ||
      value->as_int64() > kContextLengthMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": \"", key, "\" is not a positive number"));
  }
  return static_cast<int32_t>(value->as_int64());
}

std::optional<double> Number(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->to_number<double>();
}

std::optional<float> NumberIn(const json::object& object, const char* key, double low,
                              double high) {
  const std::optional<double> number = Number(object, key);
  if (!number || *number < low || *number > high) return std::nullopt;
  return static_cast<float>(*number);
}

SamplingDefaults ReadDefaults(const json::object& object) {
  SamplingDefaults defaults;
  defaults.temperature = NumberIn(object, "temperature", 0, 100);
  defaults.top_p = NumberIn(object, "top_p", 1e-6, 1);
  defaults.min_p = NumberIn(object, "min_p", 0, 1);
  defaults.repetition_penalty = NumberIn(object, "repetition_penalty", 1e-6, 100);
  if (const auto top_k = NumberIn(object, "top_k", 0, 1e6)) {
    defaults.top_k = static_cast<int32_t>(*top_k);
  }
  const json::value* do_sample = object.if_contains("do_sample");
  if (do_sample != nullptr && do_sample->is_bool() && !do_sample->as_bool()) {
    defaults.temperature = 0.0f;
  }
  return defaults;
}

// transformers hands a call's arguments to the template as an object; some templates (DeepSeek's)
// join them to text and take nothing but text.
bool WantsArgumentsAsText(const text::ChatTemplate& chat_template) {
  const auto renders = [&chat_template](std::string_view arguments) {
    const std::string messages = absl::StrCat(
        R"([{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"id":)",
        R"("abcdefghi","type":"function","function":{"name":"f","arguments":)", ToAbsl(arguments),
        R"(}}]},{"role":"tool","tool_call_id":"abcdefghi","name":"f",)",
        R"("content":"b"},{"role":"user","content":"c"}])");
    return chat_template.Render({.messages_json = messages, .now_unix_seconds = 0}).ok();
  };
  return !renders(R"({"x":1})") && renders(R"("{\"x\":1}")");
}

TemplateTraits ProbeTemplate(const text::ChatTemplate& chat_template) {
  return {.knows_developer = chat_template.Mentions("developer"),
          .arguments_as_text =
              chat_template.Mentions("tool_calls") && WantsArgumentsAsText(chat_template),
          .knows_reasoning = chat_template.Mentions(kThinkEnd)};
}

}  // namespace

absl::StatusOr<ModelPtr> LoadServedModel(const std::string& directory, const std::string& name,
                                         absl::Time now, const OutputFormatChoice& format,
                                         const std::string& pool) {
  auto model = std::make_shared<ServedModelInfo>();
  const VersionedName versioned = SplitModelName(name);
  model->name = name;
  model->base = versioned.name;
  model->version = std::max<int64_t>(versioned.version, 1);
  model->pool = pool;
  model->created = now;

  const std::string config_path = absl::StrCat(directory, "/config.json");
  ASSIGN_OR_RETURN(const std::string config_text, ReadFile(config_path, kConfigBytesMax));
  ASSIGN_OR_RETURN(json::object config, ParseObject(config_text, config_path));
  // Multimodal checkpoints keep the language model's numbers one level down.
  if (const json::value* inner = config.if_contains("text_config");
      inner != nullptr && inner->is_object()) {
    config = json::object(inner->as_object());
  }
  ASSIGN_OR_RETURN(model->context_length,
                   PositiveInt(config, "max_position_embeddings", config_path));
  ASSIGN_OR_RETURN(model->vocab_size, PositiveInt(config, "vocab_size", config_path));
  model->config_digest = Sha256Hex(config_text);

  const std::string generation_path = absl::StrCat(directory, "/generation_config.json");
  const absl::StatusOr<std::string> generation_text = ReadFile(generation_path, kConfigBytesMax);
  if (generation_text.ok()) {
    ASSIGN_OR_RETURN(const json::object generation, ParseObject(*generation_text, generation_path));
    model->defaults = ReadDefaults(generation);
  } else if (!absl::IsNotFound(generation_text.status())) {
    return generation_text.status();
  }

  ASSIGN_OR_RETURN(model->tokenizer, text::Tokenizer::FromDirectory(directory));
  model->tokenizer_digest = model->tokenizer->digest();
  ASSIGN_OR_RETURN(model->output_format, ChooseOutputFormat(format, *model->tokenizer));
  auto chat_template = text::ChatTemplate::FromDirectory(directory);
  if (chat_template.ok()) {
    model->chat_template = *std::move(chat_template);
    model->template_traits = ProbeTemplate(*model->chat_template);
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();
  }
  return ModelPtr(std::move(model));
}

}  // namespace fathom::master
