#include "master/serving/prompt.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

// No real vocabulary averages anywhere near this: a longer text cannot fit, and is refused before
// it costs tokenizer time.
constexpr size_t kBytesPerTokenMax = 256;

std::string_view ParamOf(const PromptInput& input) {
  return std::holds_alternative<ChatPrompt>(input) ? "messages" : "prompt";
}

absl::Status TooLong(const ServedModelInfo& model, std::string_view param,
                     const std::string& asked) {
  return WithCode(BadField(param, absl::StrCat("This model's maximum context length is ",
                                               model.context_length, " tokens. ", asked)),
                  "context_length_exceeded");
}

absl::Status CheckTokens(const ServedModelInfo& model, const std::vector<TokenId>& ids,
                         std::string_view param) {
  const auto bad = std::find_if(ids.begin(), ids.end(),
                                [&](TokenId id) { return id < 0 || id >= model.vocab_size; });
  if (bad == ids.end()) return absl::OkStatus();
  return BadField(param, absl::StrCat("token id ", *bad, " is not in the model's vocabulary of ",
                                      model.vocab_size));
}

// Which field was at fault, unless the failure says so itself.
absl::Status Blame(const absl::Status& status, std::string_view param) {
  return absl::IsInvalidArgument(status) ? WithParam(status, param) : status;
}

}  // namespace

absl::StatusOr<TokenizedPrompt> TokenizePrompt(const ServedModelInfo& model,
                                               const PromptInput& input,
                                               const TokenizeOptions& how) {
  TokenizedPrompt out;
  const std::string_view param = ParamOf(input);
  if (const auto* tokens = std::get_if<TokenPrompt>(&input)) {
    RETURN_IF_ERROR(CheckTokens(model, tokens->ids, param));
    out.tokens = tokens->ids;
    return out;
  }
  std::string rendered;
  text::EncodeOptions options{.add_special_tokens = how.add_special_tokens};
  const std::string* text = &rendered;
  if (const auto* chat = std::get_if<ChatPrompt>(&input)) {
    if (model.chat_template == nullptr) {
      return BadField(param, "this model has no chat template; use completions");
    }
    auto result = model.chat_template->Render({.messages_json = chat->messages_json,
                                               .tools_json = chat->tools_json,
                                               .extra_json = chat->template_args_json,
                                               .add_generation_prompt = how.add_generation_prompt});
    if (!result.ok()) return Blame(result.status(), param);
    rendered = *std::move(result);
    out.reasoning_start = FindReasoningStart(model, rendered);
    options.add_special_tokens = false;  // the template wrote them
  } else {
    text = &std::get<TextPrompt>(input).text;
  }
  if (text->size() > kBytesPerTokenMax * static_cast<size_t>(model.context_length)) {
    return TooLong(model, param, absl::StrCat("The prompt has ", text->size(), " bytes."));
  }
  auto tokens = model.tokenizer->Encode(*text, options);
  if (!tokens.ok()) return Blame(tokens.status(), param);
  out.tokens = *std::move(tokens);
  return out;
}

absl::StatusOr<PreparedPrompt> PreparePrompt(const GenerationRequest& request) {
  const ServedModelInfo& model = *request.model;
  const std::string_view param = ParamOf(request.prompt);
  PreparedPrompt prepared;
  ASSIGN_OR_RETURN(TokenizedPrompt tokenized, TokenizePrompt(model, request.prompt));
  prepared.tokens = std::move(tokenized.tokens);
  prepared.reasoning_start = tokenized.reasoning_start;
  ASSIGN_OR_RETURN(prepared.constraint, BuildConstraint(request, tokenized.reasoning_start));
  if (prepared.tokens.empty()) return BadField(param, "the prompt is empty");
  for (const LogitBias& bias : request.sampling.logit_bias) {
    RETURN_IF_ERROR(CheckTokens(model, {bias.token}, "logit_bias"));
  }
  RETURN_IF_ERROR(CheckTokens(model, request.stop.stop_token_ids, "stop_token_ids"));

  const int64_t length = static_cast<int64_t>(prepared.tokens.size());
  const int64_t left = model.context_length - length;
  const int64_t wanted = request.stop.max_tokens;
  if (left < std::max<int64_t>(wanted, 1)) {
    return TooLong(model, param,
                   absl::StrCat("The prompt has ", length, " tokens and ",
                                std::max<int64_t>(wanted, 1), " more are wanted."));
  }
  prepared.max_tokens = static_cast<int32_t>(wanted > 0 ? wanted : left);
  if (request.stop.min_tokens > prepared.max_tokens) {
    return BadField("min_tokens", "min_tokens is more than max_tokens");
  }
  prepared.cost = length + static_cast<int64_t>(prepared.max_tokens) * request.n;
  return prepared;
}

}  // namespace fathom::master
