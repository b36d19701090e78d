#include "master/api/grpc_convert.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/find_model.h"
#include "master/api/openai_messages.h"
#include "master/api/openai_tools.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

constexpr int kStopStringsMax = 16;
constexpr size_t kStopBytesMax = 4096;
constexpr int kStopTokensMax = 64;
constexpr int kLogitBiasMax = 1024;
constexpr size_t kGrammarBytesMax = 256 * 1024;
constexpr int32_t kTopLogprobsMax = 20;
constexpr size_t kRequestIdBytesMax = 128;
constexpr float kPositive = 1e-6f;

// Also catches NaN.
absl::Status InRange(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return BadField(field, absl::StrCat(field, " must be between ", low, " and ", high));
}

absl::StatusOr<SamplingParams> ReadSampling(const v1::Sampling& in,
                                            const SamplingDefaults& defaults) {
  SamplingParams out;
  out.temperature = in.has_temperature() ? in.temperature() : defaults.temperature.value_or(1);
  out.top_k = in.top_k() != 0 ? in.top_k() : defaults.top_k.value_or(0);
  out.top_p = in.has_top_p() ? in.top_p() : defaults.top_p.value_or(1);
  out.min_p = in.min_p() != 0 ? in.min_p() : defaults.min_p.value_or(0);
  out.presence_penalty = in.presence_penalty();
  out.frequency_penalty = in.frequency_penalty();
  out.repetition_penalty = in.has_repetition_penalty() ? in.repetition_penalty()
                                                       : defaults.repetition_penalty.value_or(1);
  RETURN_IF_ERROR(InRange("sampling.temperature", out.temperature, 0, 100));
  RETURN_IF_ERROR(InRange("sampling.top_k", out.top_k, 0, 1 << 26));
  RETURN_IF_ERROR(InRange("sampling.top_p", out.top_p, kPositive, 1));
  RETURN_IF_ERROR(InRange("sampling.min_p", out.min_p, 0, 1));
  RETURN_IF_ERROR(InRange("sampling.presence_penalty", out.presence_penalty, -2, 2));
  RETURN_IF_ERROR(InRange("sampling.frequency_penalty", out.frequency_penalty, -2, 2));
  RETURN_IF_ERROR(InRange("sampling.repetition_penalty", out.repetition_penalty, kPositive, 100));
  RETURN_IF_ERROR(InRange("sampling.logit_bias", in.logit_bias_size(), 0, kLogitBiasMax));
  for (const v1::LogitBias& bias : in.logit_bias()) {
    RETURN_IF_ERROR(InRange("sampling.logit_bias", bias.bias(), -100, 100));
    out.logit_bias.push_back({.token = bias.token(), .bias = bias.bias()});
  }
  return out;
}

absl::Status ReadStop(const v1::Stop& in, GenerationRequest& out) {
  RETURN_IF_ERROR(InRange("stop.max_tokens", in.max_tokens(), 0, 1 << 26));
  RETURN_IF_ERROR(InRange("stop.min_tokens", in.min_tokens(), 0, 1 << 26));
  RETURN_IF_ERROR(InRange("stop.strings", in.strings_size(), 0, kStopStringsMax));
  RETURN_IF_ERROR(InRange("stop.token_ids", in.token_ids_size(), 0, kStopTokensMax));
  out.stop.max_tokens = in.max_tokens();
  out.stop.min_tokens = in.min_tokens();
  out.stop.ignore_eos = in.ignore_eos();
  out.stop.stop_token_ids.assign(in.token_ids().begin(), in.token_ids().end());
  for (const std::string& stop : in.strings()) {
    if (stop.empty() || stop.size() > kStopBytesMax) {
      return BadField("stop.strings",
                      absl::StrCat("stop strings have 1 to ", kStopBytesMax, " bytes"));
    }
    out.stop_strings.push_back(stop);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<GrammarSpec>> ReadGrammar(v1::Grammar grammar) {
  GrammarSpec spec;
  switch (grammar.kind_case()) {
    case v1::Grammar::kJsonSchema:
      spec = {GrammarKind::kJsonSchema, std::move(*grammar.mutable_json_schema())};
      break;
    case v1::Grammar::kRegex:
      spec = {GrammarKind::kRegex, std::move(*grammar.mutable_regex())};
      break;
    case v1::Grammar::kLark:
      spec = {GrammarKind::kLark, std::move(*grammar.mutable_lark())};
      break;
    case v1::Grammar::KIND_NOT_SET:
      return std::optional<GrammarSpec>();
  }
  if (spec.source.empty() || spec.source.size() > kGrammarBytesMax) {
    return BadField("grammar", absl::StrCat("grammars have 1 to ", kGrammarBytesMax, " bytes"));
  }
  return std::optional<GrammarSpec>(std::move(spec));
}

absl::Status ReadInput(v1::GenerateRequest& request, GenerationRequest& out) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(out.prompt, ReadChatInput(request.chat(), *out.model, out.tool_use));
      return absl::OkStatus();
    }
    case v1::GenerateRequest::kText:
      out.prompt = TextPrompt{std::move(*request.mutable_text())};
      return absl::OkStatus();
    case v1::GenerateRequest::kTokens:
      out.prompt = TokenPrompt{{request.tokens().ids().begin(), request.tokens().ids().end()}};
      return absl::OkStatus();
    case v1::GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return BadField("input", "the request has no input");
}

v1::TokenLogprob ToProto(const TokenLogprob& token, const ServedModelInfo& model) {
  v1::TokenLogprob out;
  out.set_token(token.token);
  out.set_logprob(token.logprob);
  out.set_text(std::string(model.tokenizer->TokenBytes(token.token)));
  return out;
}

v1::PositionLogprobs ToProto(const PositionLogprobs& position, const ServedModelInfo& model) {
  v1::PositionLogprobs out;
  *out.mutable_chosen() = ToProto(position.chosen, model);
  for (const TokenLogprob& token : position.top) *out.add_top() = ToProto(token, model);
  return out;
}

}  // namespace

absl::StatusOr<PromptInput> ReadChatInput(const v1::ChatInput& chat, const ServedModelInfo& model,
                                          ToolUse& tool_use) {
  ChatPrompt prompt{.template_args_json = chat.template_args_json()};
  ASSIGN_OR_RETURN(prompt.messages_json, RewriteMessages(chat.messages_json(), model));
  ASSIGN_OR_RETURN(ChatTools tools,
                   ReadTools(chat.tools_json(), chat.tool_choice(), !chat.single_tool_call()));
  prompt.tools_json = std::move(tools.shown_json);
  tool_use = std::move(tools.use);
  return PromptInput(std::move(prompt));
}

absl::StatusOr<GenerationRequest> FromProto(v1::GenerateRequest request, const Catalog& catalog,
                                            const GrpcBounds& bounds, const ModelDraw& draw) {
  GenerationRequest out;
  ASSIGN_OR_RETURN(out.model, FindModel(catalog, request.model(), draw, "model"));
  if (request.request_id().size() > kRequestIdBytesMax) {
    return BadField("request_id", absl::StrCat("at most ", kRequestIdBytesMax, " bytes"));
  }
  RETURN_IF_ERROR(ReadInput(request, out));
  ASSIGN_OR_RETURN(out.sampling, ReadSampling(request.sampling(), out.model->defaults));
  if (request.sampling().has_seed()) out.seed = request.sampling().seed();
  RETURN_IF_ERROR(ReadStop(request.stop(), out));
  ASSIGN_OR_RETURN(out.grammar, ReadGrammar(std::move(*request.mutable_grammar())));
  const v1::LogprobOptions& logprobs = request.logprobs();
  RETURN_IF_ERROR(InRange("logprobs.output_top", logprobs.output_top(), 0, kTopLogprobsMax));
  RETURN_IF_ERROR(InRange("logprobs.prompt", logprobs.prompt(), 0, kTopLogprobsMax));
  out.logprobs.output = logprobs.output() || logprobs.output_top() > 0;
  out.logprobs.output_top = logprobs.output_top();
  if (logprobs.has_prompt()) out.logprobs.prompt = logprobs.prompt();
  RETURN_IF_ERROR(InRange("n", request.n(), 0, bounds.choices));
  out.n = std::max(request.n(), 1);
  RETURN_IF_ERROR(InRange("priority", request.priority(), 0, kPriorityMax));
  out.priority = request.priority();
  out.include_raw_output = request.include_raw_output();
  if (request.timeout_ms() < 0) return BadField("timeout_ms", "must not be negative");
  out.timeout = bounds.timeout_max;
  if (request.timeout_ms() > 0) {
    out.timeout = std::min(out.timeout, absl::Milliseconds(request.timeout_ms()));
  }
  return out;
}

void Fill(GenerationDelta delta, const ServedModelInfo& model, v1::GenerateResponse& out) {
  out.set_choice(delta.choice);
  out.set_text_delta(std::move(delta.text));
  out.set_reasoning_delta(std::move(delta.reasoning));
  for (ToolCallDelta& call : delta.tool_calls) {
    v1::ToolCallDelta& piece = *out.add_tool_calls();
    piece.set_index(call.index);
    piece.set_id(std::move(call.id));
    piece.set_name(std::move(call.name));
    piece.set_arguments(std::move(call.arguments));
  }
  out.mutable_token_ids()->Add(delta.tokens.begin(), delta.tokens.end());
  for (const PositionLogprobs& position : delta.logprobs) {
    *out.add_logprobs() = ToProto(position, model);
  }
  if (!delta.prompt_logprobs.empty()) out.add_prompt_logprobs();  // the first token has none
  for (const PositionLogprobs& position : delta.prompt_logprobs) {
    *out.add_prompt_logprobs() = ToProto(position, model);
  }
  switch (delta.finish) {
    case FinishReason::kNone:
      break;
    case FinishReason::kStop:
      out.set_finish(v1::FINISH_REASON_STOP);
      break;
    case FinishReason::kLength:
      out.set_finish(v1::FINISH_REASON_LENGTH);
      break;
    case FinishReason::kCancelled:
      out.set_finish(v1::FINISH_REASON_CANCELLED);
      break;
    case FinishReason::kError:
      out.set_finish(v1::FINISH_REASON_ERROR);
      break;
  }
}

v1::Usage ToProto(const GenerationUsage& usage) {
  v1::Usage out;
  out.set_prompt_tokens(usage.prompt_tokens);
  out.set_completion_tokens(usage.completion_tokens);
  out.set_cached_tokens(usage.cached_tokens);
  out.set_reasoning_tokens(usage.reasoning_tokens);
  return out;
}

}  // namespace fathom::master
