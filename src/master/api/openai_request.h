#pragma once

// OpenAI's chat and completion requests read into GenerationRequests. Strict: a wrong type, a
// number out of range or a field nobody knows is an error that names it. Fields of OpenAI's that
// cannot be honoured are refused, unless ignoring them changes no answer. Pure; any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "master/api/fields.h"
#include "master/api/resume.h"
#include "master/models/catalog.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

enum class OpenAiKind { kChat, kCompletion };

struct OpenAiBounds {
  int32_t choices = 16;  // n, and prompts of one completion request x n
  absl::Duration timeout_max = absl::Minutes(10);
};

struct OpenAiRequest {
  OpenAiKind kind = OpenAiKind::kChat;
  ModelPtr model;
  bool routed = false;  // another request for the same name may get another model
  // One a prompt; only completions may have several. Ids, tenant and priority are not set.
  std::vector<GenerationRequest> generations;
  bool stream = false;
  bool include_usage = false;  // streams: a last chunk with the usage
  bool logprobs = false;
  int32_t top_logprobs = 0;
  bool prompt_logprobs = false;
  // Completions: the answer begins with the prompt, one text a prompt. Empty: no echo.
  std::vector<std::string> echo;
  // max_tokens was 0: only the prompt is wanted, and what is generated is dropped.
  bool only_echo = false;
  ResumePlan resume;  // set by the call
};

// Reads "model".
absl::StatusOr<std::string> ReadModelName(Fields& fields);

absl::StatusOr<OpenAiRequest> ParseOpenAiRequest(OpenAiKind kind, std::string_view body,
                                                 const Catalog& catalog, const OpenAiBounds& bounds,
                                                 const ModelDraw& draw = {});

}  // namespace fathom::master
