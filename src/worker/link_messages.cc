#include "worker/link_messages.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::worker {
namespace {

constexpr size_t kIdBytesMax = 256;
constexpr int kChoicesMax = 128;
constexpr int kTopLogprobsMax = 20;
constexpr int kStopTokensMax = 1024;
constexpr size_t kGrammarBytesMax = size_t{1} << 20;
constexpr int32_t kTenantWeightMax = 1000;
constexpr size_t kFingerprintBytes = 32;
constexpr int32_t kCrashesMax = 16;
constexpr int64_t kDeadlineMsMax = int64_t{7} * 24 * 3600 * 1000;

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(what); }

absl::StatusOr<SamplingParams> Sampling(const v1::WorkSampling& in) {
  const auto within = [](float value, float low, float high) {
    return value >= low && value <= high;  // false for NaN
  };
  if (!within(in.temperature(), 0, 100)) return Bad("temperature is not within 0 and 100");
  if (!(in.top_p() > 0 && in.top_p() <= 1)) return Bad("top_p is not within (0, 1]");
  if (!within(in.min_p(), 0, 1)) return Bad("min_p is not within 0 and 1");
  if (in.top_k() < 0) return Bad("top_k is negative");
  if (!within(in.presence_penalty(), -2, 2)) return Bad("presence_penalty is not within -2 and 2");
  if (!within(in.frequency_penalty(), -2, 2)) {
    return Bad("frequency_penalty is not within -2 and 2");
  }
  if (!(in.repetition_penalty() > 0 && std::isfinite(in.repetition_penalty()))) {
    return Bad("repetition_penalty is not above 0");
  }
  if (in.bias_tokens_size() != in.bias_values_size()) return Bad("logit_bias is torn");
  SamplingParams out;
  out.temperature = in.temperature();
  out.top_k = in.top_k();
  out.top_p = in.top_p();
  out.min_p = in.min_p();
  out.presence_penalty = in.presence_penalty();
  out.frequency_penalty = in.frequency_penalty();
  out.repetition_penalty = in.repetition_penalty();
  out.logit_bias.reserve(in.bias_tokens_size());
  for (int i = 0; i < in.bias_tokens_size(); ++i) {
    if (!within(in.bias_values(i), -100, 100)) return Bad("a bias is not within -100 and 100");
    out.logit_bias.push_back({in.bias_tokens(i), in.bias_values(i)});
  }
  out.seed = in.seed();
  return out;
}

absl::Status SetChoices(const v1::GenerateWork& work, EngineRequest* out) {
  if (work.choices_size() < 1 || work.choices_size() > kChoicesMax) return Bad("1 to 128 choices");
  std::vector<int32_t> seen;
  for (const v1::SubmitChoice& choice : work.choices()) {
    if (choice.index() < 0) return Bad("a choice's index is negative");
    if (choice.tokens_size() >= work.max_tokens()) return Bad("a choice is complete already");
    seen.push_back(choice.index());
    out->choices.push_back({choice.index(), {choice.tokens().begin(), choice.tokens().end()}});
  }
  std::sort(seen.begin(), seen.end());
  if (std::adjacent_find(seen.begin(), seen.end()) != seen.end())
    return Bad("a choice comes twice");
  return absl::OkStatus();
}

void SetLogprobs(const std::vector<PositionLogprobs>& positions, v1::Logprobs* out) {
  size_t top = 0;
  for (const PositionLogprobs& position : positions) top = std::max(top, position.top.size());
  out->set_top(static_cast<int32_t>(top));
  for (const PositionLogprobs& position : positions) {
    out->add_chosen(position.chosen.logprob);
    for (size_t i = 0; i < top; ++i) {
      // A vocabulary smaller than what was asked for: rows stay rectangular.
      const TokenLogprob best = i < position.top.size()
                                    ? position.top[i]
                                    : TokenLogprob{0, -std::numeric_limits<float>::infinity()};
      out->add_top_tokens(best.token);
      out->add_top_values(best.logprob);
    }
  }
}

}  // namespace

absl::StatusOr<EngineRequest> FromMessage(const v1::Submit& message, int64_t now_ns) {
  if (message.request_id().empty() || message.request_id().size() > kIdBytesMax) {
    return Bad("a request id has 1 to 256 bytes");
  }
  if (message.attempt() == 0) return Bad("attempts count from 1");
  if (!message.fingerprint().empty() && message.fingerprint().size() != kFingerprintBytes) {
    return Bad("a fingerprint has 32 bytes");
  }
  if (message.crashes() < 0 || message.crashes() > kCrashesMax) {
    return Bad("crashes are not within 0 and 16");
  }
  if (!message.has_generate()) return Bad("this worker knows no such work");
  const v1::GenerateWork& work = message.generate();
  if (work.prompt().empty()) return Bad("the prompt is empty");
  if (work.max_tokens() < 1) return Bad("max_tokens is below 1");
  if (work.min_tokens() < 0 || work.min_tokens() > work.max_tokens()) {
    return Bad("min_tokens is not within 0 and max_tokens");
  }
  if (work.stop_token_ids_size() > kStopTokensMax) return Bad("too many stop tokens");
  if (work.top_logprobs() < 0 || work.top_logprobs() > kTopLogprobsMax ||
      work.prompt_logprobs() < 0 || work.prompt_logprobs() > kTopLogprobsMax) {
    return Bad("logprobs of more than 20 tokens");
  }
  if (work.grammar_kind() < 0 || work.grammar_kind() > 3) return Bad("unknown kind of grammar");
  if (work.grammar().size() > kGrammarBytesMax) return Bad("the grammar is larger than 1 MiB");
  if (work.adapter() != 0) return Bad("this worker has no adapters");

  EngineRequest request;
  request.id = message.request_id();
  request.attempt = message.attempt();
  request.prompt.assign(work.prompt().begin(), work.prompt().end());
  RETURN_IF_ERROR(SetChoices(work, &request));
  ASSIGN_OR_RETURN(request.sampling, Sampling(work.sampling()));
  request.stop.max_tokens = work.max_tokens();
  request.stop.min_tokens = work.min_tokens();
  request.stop.ignore_eos = work.ignore_eos();
  request.stop.stop_token_ids.assign(work.stop_token_ids().begin(), work.stop_token_ids().end());
  request.logprobs.output = work.logprobs();
  request.logprobs.output_top = work.top_logprobs();
  if (work.has_prompt_logprobs()) request.logprobs.prompt = work.prompt_logprobs();
  if (work.grammar_kind() != 0) {
    request.grammar = {static_cast<GrammarKind>(work.grammar_kind() - 1), work.grammar()};
  }
  request.priority = message.priority();
  request.tenant_hash = message.tenant_hash();
  request.tenant_weight = std::clamp(message.tenant_weight(), 1, kTenantWeightMax);
  request.cache_salt = message.cache_salt();
  if (message.remaining_ms() > 0) {
    request.deadline_ns =
        now_ns + std::min(message.remaining_ms(), kDeadlineMsMax) * int64_t{1'000'000};
  }
  return request;
}

v1::StepOutput ToMessage(const SequenceOutput& output) {
  v1::StepOutput message;
  message.set_request_id(output.request_id);
  message.set_attempt(output.attempt);
  message.set_choice(output.choice);
  message.set_first_index(output.first_index);
  message.mutable_tokens()->Add(output.tokens.begin(), output.tokens.end());
  if (!output.logprobs.empty()) SetLogprobs(output.logprobs, message.mutable_logprobs());
  if (!output.prompt_logprobs.empty()) {
    SetLogprobs(output.prompt_logprobs, message.mutable_prompt_logprobs());
  }
  message.set_finish(static_cast<int32_t>(output.finish));
  message.set_error(output.error);
  message.set_bad_request(output.bad_request);
  message.set_cached_tokens(output.cached_tokens);
  return message;
}

v1::EngineState ToMessage(EngineState state) {
  switch (state) {
    case EngineState::kLoading:
      return v1::ENGINE_STATE_LOADING;
    case EngineState::kReady:
      return v1::ENGINE_STATE_READY;
    case EngineState::kDraining:
      return v1::ENGINE_STATE_DRAINING;
    case EngineState::kDead:
      return v1::ENGINE_STATE_DEAD;
  }
  return v1::ENGINE_STATE_UNSPECIFIED;
}

}  // namespace fathom::worker
