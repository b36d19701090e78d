#include "master/api/kserve_reply.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "master/api/kserve_model.h"
#include "master/api/kserve_tensor.h"

namespace fathom::master {
namespace {

std::string_view FinishText(FinishReason finish) {
  switch (finish) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    default:
      return "";
  }
}

}  // namespace

inference::ModelInferResponse KserveEmptyResponse(const KserveReplyInfo& info) {
  inference::ModelInferResponse out;
  out.set_model_name(info.model);
  out.set_model_version(absl::StrCat(info.version));
  out.set_id(info.id);
  return out;
}

inference::ModelInferResponse KserveResponse(const KserveReplyInfo& info,
                                             const GenerationDelta& delta) {
  inference::ModelInferResponse out = KserveEmptyResponse(info);
  for (const KserveOutput& wanted : info.outputs) {
    const KserveTensorSpec& spec = KserveOutputSpecs()[static_cast<size_t>(wanted.kind)];
    auto& tensor = *out.add_outputs();
    tensor.set_name(std::string(spec.name));
    tensor.set_datatype(std::string(DataTypeName(spec.type)));
    std::string& data = *out.add_raw_output_contents();
    int64_t size = 1;
    switch (wanted.kind) {
      case KserveOutputKind::kText:
        AppendBytesElement(delta.text, data);
        break;
      case KserveOutputKind::kIds:
        size = static_cast<int64_t>(delta.tokens.size());
        for (const TokenId token : delta.tokens) AppendInt32Element(token, data);
        break;
      case KserveOutputKind::kFinishReason:
        AppendBytesElement(FinishText(delta.finish), data);
        break;
    }
    tensor.add_shape(size);
  }
  return out;
}

void AddUsage(const GenerationUsage& usage, inference::ModelInferResponse& response) {
  auto& parameters = *response.mutable_parameters();
  parameters["prompt_tokens"].set_int64_param(usage.prompt_tokens);
  parameters["completion_tokens"].set_int64_param(usage.completion_tokens);
  parameters["cached_tokens"].set_int64_param(usage.cached_tokens);
}

void SetFinal(bool final, inference::ModelInferResponse& response) {
  (*response.mutable_parameters())["triton_final_response"].set_bool_param(final);
}

void Gather(GenerationDelta delta, GenerationDelta& answer) {
  answer.text += delta.text;
  answer.tokens.insert(answer.tokens.end(), delta.tokens.begin(), delta.tokens.end());
  answer.finish = delta.finish;
}

}  // namespace fathom::master
