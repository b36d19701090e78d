#include "master/fleet/link_messages.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::master {
namespace {

constexpr size_t kNameBytesMax = 256;
constexpr int kLabelsMax = 64;
constexpr size_t kIncarnationBytes = 16;
constexpr size_t kKvScopeBytesMax = 64;

template <typename Repeated>
void Append(const std::vector<TokenId>& tokens, Repeated* out) {
  out->Add(tokens.begin(), tokens.end());
}

void SetSampling(const SamplingParams& params, v1::WorkSampling* out) {
  out->set_temperature(params.temperature);
  out->set_top_k(params.top_k);
  out->set_top_p(params.top_p);
  out->set_min_p(params.min_p);
  out->set_presence_penalty(params.presence_penalty);
  out->set_frequency_penalty(params.frequency_penalty);
  out->set_repetition_penalty(params.repetition_penalty);
  for (const LogitBias& bias : params.logit_bias) {
    out->add_bias_tokens(bias.token);
    out->add_bias_values(bias.bias);
  }
  out->set_seed(params.seed);
}

// `tokens` are the chosen ones; prompt logprobs come without them.
absl::StatusOr<std::vector<PositionLogprobs>> Positions(const v1::Logprobs& message,
                                                        const std::vector<TokenId>* tokens) {
  const int count = message.chosen_size();
  const int top = message.top();
  const bool sized = top >= 0 && message.top_tokens_size() == message.top_values_size() &&
                     message.top_tokens_size() == int64_t{count} * top &&
                     (tokens == nullptr || tokens->size() == static_cast<size_t>(count));
  if (!sized) return absl::InvalidArgumentError("logprobs do not match their tokens");
  std::vector<PositionLogprobs> positions(count);
  for (int i = 0; i < count; ++i) {
    positions[i].chosen = {tokens == nullptr ? 0 : (*tokens)[i], message.chosen(i)};
    positions[i].top.reserve(top);
    for (int k = i * top; k < (i + 1) * top; ++k) {
      positions[i].top.push_back({message.top_tokens(k), message.top_values(k)});
    }
  }
  return positions;
}

absl::Status CheckName(std::string_view what, const std::string& name) {
  if (!name.empty() && name.size() <= kNameBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(absl::string_view(what.data(), what.size()),
                                                 " has ", name.size(), " bytes, not 1 to 256"));
}

}  // namespace

v1::Submit ToMessage(const Submission& submission) {
  v1::Submit message;
  message.set_request_id(submission.request_id);
  message.set_attempt(submission.attempt);
  message.set_model(submission.model);
  message.set_priority(submission.priority);
  message.set_tenant_hash(submission.tenant_hash);
  message.set_tenant_weight(submission.tenant_weight);
  message.set_cost(submission.cost);
  if (submission.remaining != absl::InfiniteDuration()) {
    message.set_remaining_ms(std::max<int64_t>(1, absl::ToInt64Milliseconds(submission.remaining)));
  }
  message.set_cache_salt(submission.cache_salt);
  message.set_resume_context(submission.resume_context);
  message.set_fingerprint(submission.fingerprint);
  message.set_crashes(submission.crashes);

  v1::GenerateWork* work = message.mutable_generate();
  Append(submission.prompt, work->mutable_prompt());
  for (const SubmissionChoice& choice : submission.choices) {
    v1::SubmitChoice* out = work->add_choices();
    out->set_index(choice.index);
    Append(choice.tokens, out->mutable_tokens());
  }
  SetSampling(submission.sampling, work->mutable_sampling());
  work->set_max_tokens(submission.stop.max_tokens);
  work->set_min_tokens(submission.stop.min_tokens);
  work->set_ignore_eos(submission.stop.ignore_eos);
  Append(submission.stop.stop_token_ids, work->mutable_stop_token_ids());
  work->set_logprobs(submission.logprobs.output);
  work->set_top_logprobs(submission.logprobs.output_top);
  if (submission.logprobs.prompt) work->set_prompt_logprobs(*submission.logprobs.prompt);
  if (submission.grammar) {
    work->set_grammar_kind(static_cast<int>(submission.grammar->kind) + 1);
    work->set_grammar(submission.grammar->source);
  }
  return message;
}

absl::StatusOr<SubmissionOutput> FromMessage(const v1::StepOutput& message) {
  if (message.finish() < 0 || message.finish() > static_cast<int>(FinishReason::kError)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown finish reason ", message.finish()));
  }
  if (message.first_index() < 0) return absl::InvalidArgumentError("negative first_index");
  SubmissionOutput output;
  output.attempt = message.attempt();
  output.choice = message.choice();
  output.first_index = message.first_index();
  output.tokens.assign(message.tokens().begin(), message.tokens().end());
  output.finish = static_cast<FinishReason>(message.finish());
  output.error = message.error();
  output.bad_request = message.bad_request();
  output.taken_over = message.taken_over();
  output.cached_tokens = message.cached_tokens();
  if (message.has_logprobs()) {
    ASSIGN_OR_RETURN(output.logprobs, Positions(message.logprobs(), &output.tokens));
  }
  if (message.has_prompt_logprobs()) {
    ASSIGN_OR_RETURN(output.prompt_logprobs, Positions(message.prompt_logprobs(), nullptr));
  }
  return output;
}

absl::Status CheckHello(const v1::Hello& hello) {
  if (hello.protocol() != kLinkProtocol) {
    return absl::FailedPreconditionError(absl::StrCat("the worker speaks link protocol ",
                                                      hello.protocol(), ", this master speaks ",
                                                      kLinkProtocol));
  }
  RETURN_IF_ERROR(CheckName("worker id", hello.worker_id()));
  if (hello.incarnation().size() != kIncarnationBytes) {
    return absl::InvalidArgumentError("an incarnation has 16 bytes");
  }
  if (hello.labels_size() > kLabelsMax ||
      static_cast<size_t>(hello.models_size()) > kWorkerModelsMax) {
    return absl::InvalidArgumentError("too many labels or models");
  }
  for (const auto& [key, value] : hello.labels()) {
    RETURN_IF_ERROR(CheckName("label", key));
    if (value.size() > kNameBytesMax) return absl::InvalidArgumentError("label value too long");
  }
  std::set<std::string_view> names;
  for (const v1::LoadedModel& model : hello.models()) {
    RETURN_IF_ERROR(CheckModel(model));
    if (!names.insert(model.name()).second)
      return absl::InvalidArgumentError("a model comes twice");
  }
  return absl::OkStatus();
}

absl::Status CheckModelName(const std::string& name) { return CheckName("model name", name); }

absl::Status CheckModel(const v1::LoadedModel& model) {
  RETURN_IF_ERROR(CheckModelName(model.name()));
  if (model.kv_scope().size() > kKvScopeBytesMax) {
    return absl::InvalidArgumentError("a KV scope has at most 64 bytes");
  }
  return absl::OkStatus();
}

v1::Load ToMessage(const LoadOrder& order, uint64_t epoch) {
  v1::Load message;
  message.set_epoch(epoch);
  message.set_model(order.model);
  message.set_snapshot(order.directory);
  message.set_kv_cache_bytes(order.kv_cache_bytes);
  message.set_config_digest(order.config_digest);
  message.set_tokenizer_digest(order.tokenizer_digest);
  return message;
}

ServedModel FromMessage(const v1::LoadedModel& model) {
  return {.name = model.name(),
          .config_digest = model.config_digest(),
          .tokenizer_digest = model.tokenizer_digest(),
          .context_length = model.context_length(),
          .vocab_size = model.vocab_size(),
          .kv_tokens = model.kv_tokens(),
          .kv_block_tokens = model.kv_block_tokens(),
          .max_sequences = model.max_sequences(),
          .kv_scope = model.kv_scope()};
}

}  // namespace fathom::master
