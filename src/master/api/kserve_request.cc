#include "master/api/kserve_request.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/fields.h"
#include "master/api/kserve_model.h"
#include "master/api/kserve_tensor.h"
#include "master/api/openai_messages.h"
#include "master/api/sampling_fields.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kIdBytesMax = 128;
constexpr size_t kNameBytesMax = 64;
constexpr int kOutputsMax = 16;
constexpr size_t kParametersMax = 64;

absl::StatusOr<json::value> ValueOf(const std::string& name,
                                    const inference::InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case inference::InferParameter::kBoolParam:
      return json::value(parameter.bool_param());
    case inference::InferParameter::kInt64Param:
      return json::value(parameter.int64_param());
    case inference::InferParameter::kUint64Param:
      // As JSON's parser would have it: what fits a signed number is one.
      if (std::in_range<int64_t>(parameter.uint64_param())) {
        return json::value(static_cast<int64_t>(parameter.uint64_param()));
      }
      return json::value(parameter.uint64_param());
    case inference::InferParameter::kDoubleParam:
      return json::value(parameter.double_param());
    case inference::InferParameter::kStringParam:
      return json::value(json::string(parameter.string_param()));
    case inference::InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return BadField(name, absl::StrCat("parameter '", name, "' has no value"));
}

// Prompt and settings of a request, whichever way they came.
struct Parts {
  std::vector<PromptInput> prompts;
  json::object settings;
};

absl::Status SetPrompt(const KserveInput& input, Parts& parts) {
  if (input.name == "input_ids") {
    ASSIGN_OR_RETURN(std::vector<TokenId> ids, TokenElements(input));
    parts.prompts.emplace_back(TokenPrompt{std::move(ids)});
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(std::vector<std::string> elements, BytesElements(input));
  if (elements.size() != 1) {
    return BadField(input.name, absl::StrCat("input '", input.name, "': must have one element"));
  }
  if (input.name == "messages") {
    parts.prompts.emplace_back(ChatPrompt{.messages_json = std::move(elements.front())});
  } else {
    parts.prompts.emplace_back(TextPrompt{std::move(elements.front())});
  }
  return absl::OkStatus();
}

absl::Status AddInput(const KserveInput& input, Parts& parts) {
  const auto specs = KserveInputSpecs();
  const bool known = std::any_of(specs.begin(), specs.end(), [&](const KserveTensorSpec& spec) {
    return spec.name == input.name;
  });
  if (!known) {
    const std::string shown = input.name.substr(0, kNameBytesMax);
    return BadField(shown, absl::StrCat("'", shown, "' is not an input of this model"));
  }
  if (input.name == "text_input" || input.name == "messages" || input.name == "input_ids") {
    return SetPrompt(input, parts);
  }
  if (input.name == "stop") {
    ASSIGN_OR_RETURN(const std::vector<std::string> elements, BytesElements(input));
    json::array& list = parts.settings["stop"].emplace_array();
    for (const std::string& element : elements) list.emplace_back(element);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(parts.settings[input.name], ScalarElement(input));
  return absl::OkStatus();
}

absl::StatusOr<Parts> Gather(inference::ModelInferRequest& request) {
  Parts parts;
  ASSIGN_OR_RETURN(const std::vector<KserveInput> inputs, TakeInputs(request));
  for (const KserveInput& input : inputs) RETURN_IF_ERROR(AddInput(input, parts));
  if (request.parameters().size() > kParametersMax) {
    return BadField("parameters", absl::StrCat("at most ", kParametersMax, " parameters"));
  }
  for (const auto& [name, parameter] : request.parameters()) {
    const std::string shown = name.substr(0, kNameBytesMax);
    if (parts.settings.contains(name)) {
      return BadField(shown, absl::StrCat("'", shown, "' comes as an input and as a parameter"));
    }
    ASSIGN_OR_RETURN(parts.settings[name], ValueOf(shown, parameter));
  }
  return parts;
}

// In microseconds, as Triton has it.
void ReadTimeout(Fields& fields, absl::Duration timeout_max, GenerationRequest& out) {
  out.timeout = timeout_max;
  std::optional<uint64_t> timeout_us;
  if (!fields.Read("timeout", timeout_us)) return;
  const auto limit = static_cast<uint64_t>(absl::ToInt64Microseconds(timeout_max));
  // 0 is "no limit of mine"; what is negative has the highest bit.
  if (static_cast<int64_t>(*timeout_us) < 0) return fields.Fail("timeout", "must not be negative");
  if (*timeout_us > 0) {
    out.timeout = absl::Microseconds(static_cast<int64_t>(std::min(*timeout_us, limit)));
  }
}

absl::StatusOr<std::vector<KserveOutput>> ReadOutputs(const inference::ModelInferRequest& request,
                                                      bool binary_default) {
  const auto specs = KserveOutputSpecs();
  std::vector<KserveOutput> outputs;
  if (request.outputs_size() > kOutputsMax) {
    return BadField("outputs", absl::StrCat("at most ", kOutputsMax, " outputs"));
  }
  for (const auto& wanted : request.outputs()) {
    const std::string shown = wanted.name().substr(0, kNameBytesMax);
    size_t at = 0;
    while (at < specs.size() && specs[at].name != wanted.name()) ++at;
    if (at == specs.size()) {
      return BadField(shown, absl::StrCat("'", shown, "' is not an output of this model"));
    }
    KserveOutput output{.kind = static_cast<KserveOutputKind>(at), .binary = binary_default};
    for (const auto& [name, parameter] : wanted.parameters()) {
      if (name != "binary_data" || !parameter.has_bool_param()) {
        return BadField(shown, absl::StrCat("output '", shown, "': parameter '",
                                            name.substr(0, kNameBytesMax), "' is not served here"));
      }
      output.binary = parameter.bool_param();
    }
    for (const KserveOutput& other : outputs) {
      if (other.kind == output.kind) {
        return BadField(shown, absl::StrCat("output '", shown, "' is asked for twice"));
      }
    }
    outputs.push_back(output);
  }
  for (size_t i = 0; request.outputs().empty() && i < specs.size(); ++i) {
    outputs.push_back({.kind = static_cast<KserveOutputKind>(i), .binary = binary_default});
  }
  return outputs;
}

}  // namespace

absl::StatusOr<KserveRequest> ReadKserveRequest(inference::ModelInferRequest request,
                                                const Catalog& catalog, absl::Duration timeout_max,
                                                const RequestDraw& draw) {
  KserveRequest out;
  GenerationRequest& generation = out.generation;
  generation.id = draw.id;
  ASSIGN_OR_RETURN(generation.model, FindKserveModel(catalog, request.model_name(),
                                                     request.model_version(), draw.draw()));
  if (request.id().size() > kIdBytesMax) {
    return BadField("id", absl::StrCat("id: at most ", kIdBytesMax, " bytes"));
  }
  out.id = request.id();
  ASSIGN_OR_RETURN(Parts parts, Gather(request));
  if (parts.prompts.size() != 1) {
    return BadField("inputs",
                    "exactly one of the inputs text_input, messages and input_ids is needed");
  }
  generation.prompt = std::move(parts.prompts.front());
  if (auto* chat = std::get_if<ChatPrompt>(&generation.prompt)) {
    ASSIGN_OR_RETURN(chat->messages_json, RewriteMessages(chat->messages_json, *generation.model));
  }

  Fields fields(parts.settings);
  ReadSampling(fields, generation.model->defaults, generation);
  fields.Read("max_tokens", int64_t{1}, int64_t{kTokensMax}, generation.stop.max_tokens);
  ReadStop(fields, generation);
  ReadTimeout(fields, timeout_max, generation);
  bool stream = false;
  if (fields.Read("stream", stream)) out.stream = stream;
  fields.Read("triton_enable_empty_final_response", out.empty_final_response);
  bool binary_default = false;
  fields.Read("binary_data_output", binary_default);
  // Triton's levels count from 1, and 0 is the default.
  if (int32_t level = 0; fields.Read("priority", int64_t{0}, int64_t{kPriorityMax} + 1, level)) {
    generation.priority = std::max(level, 1) - 1;
  }
  for (const std::string_view name : {"sequence_id", "sequence_start", "sequence_end"}) {
    fields.Refuse(name, "is for models that keep a state between requests");
  }
  fields.CheckUnread();
  RETURN_IF_ERROR(fields.status());
  ASSIGN_OR_RETURN(out.outputs, ReadOutputs(request, binary_default));
  return out;
}

}  // namespace fathom::master
