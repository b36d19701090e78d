#pragma once

// One generation as every dialect asks for it, and what comes back. Plain data.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/domain.h"
#include "master/models/catalog.h"
#include "master/state/quotas.h"

namespace fathom::master {

// JSON as the client wrote it, so that the template sees its key order and its numbers.
struct ChatPrompt {
  std::string messages_json;       // array
  std::string tools_json;          // array, or empty
  std::string template_args_json;  // object, or empty
};
struct TextPrompt {
  std::string text;
};
struct TokenPrompt {
  std::vector<TokenId> ids;
};
using PromptInput = std::variant<ChatPrompt, TextPrompt, TokenPrompt>;

// A function the model may call.
struct Tool {
  std::string name;
  std::string parameters_json;  // JSON schema of its arguments; empty: it takes none
  bool strict = false;          // arguments must follow the schema
};

enum class ToolChoice : uint8_t { kNone, kAuto, kRequired };

// Which calls an answer may hold. The template's view of the tools is in ChatPrompt.
struct ToolUse {
  ToolChoice choice = ToolChoice::kNone;
  bool parallel = true;     // more than one call
  std::vector<Tool> tools;  // that may be called
};

// How a request outlives the connection of its client, and its master.
struct Resumption {
  std::string context;   // its proof, the same at every master; empty: it cannot be resumed
  bool look = false;     // it may run somewhere already
  uint32_t attempt = 0;  // the last that the client has heard of
  // Tokens of each choice that the client has. Deltas end there, so that the text up to there is
  // what it has. Empty: none.
  std::vector<int32_t> have;
  absl::Duration hold;  // how long it goes on without a client
};

inline constexpr int32_t kPriorityMax = 9;

struct GenerationRequest {
  std::string id;       // unique in the cluster
  std::string call_id;  // of the call that it came by, where that has another one
  ModelPtr model;
  std::string key_id;  // whose quotas it takes
  QuotaLimits quota;
  std::string tenant;
  int32_t tenant_weight = 1;  // its share, relative to other tenants
  int32_t priority = 0;       // 0 is the most urgent, kPriorityMax the least
  PromptInput prompt;
  SamplingParams sampling;
  std::optional<uint64_t> seed;  // one is drawn when the client gave none
  StopConditions stop;           // max_tokens 0: what the context leaves
  std::vector<std::string> stop_strings;
  LogprobParams logprobs;
  std::optional<GrammarSpec> grammar;  // of the answer, what follows the reasoning
  ToolUse tool_use;                    // chats
  int32_t n = 1;
  bool include_raw_output = false;  // neither reasoning nor tool calls are split off
  absl::Duration timeout = absl::Minutes(10);
  Resumption resumption;
};

struct GenerationUsage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;  // all choices, up to the stop
  int32_t cached_tokens = 0;      // of the prompt
  int32_t reasoning_tokens = 0;   // of the completion; 0 where reasoning is not split off
};

// A piece of a tool call; pieces of one index belong together. Id and name come on the first only.
struct ToolCallDelta {
  int32_t index = 0;
  std::string id;
  std::string name;
  std::string arguments;
};

// News of one choice. Text may lag behind tokens: a possible stop string or half a character is
// held back.
struct GenerationDelta {
  int32_t choice = 0;
  uint32_t attempt = 0;  // of the submission that brought it
  std::string text;
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;
  std::vector<TokenId> tokens;
  std::vector<PositionLogprobs> logprobs;         // one a token, when asked for
  std::vector<PositionLogprobs> prompt_logprobs;  // once, on choice 0; the first token has none
  std::vector<TokenId> prompt_tokens;             // beside prompt_logprobs
  FinishReason finish = FinishReason::kNone;      // set on the last delta of the choice
};

// How a dialect hears of its generation. Called on the generation's strand, deltas in order.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // An error ends the generation with it (a client too slow, say).
  virtual absl::Status OnDelta(GenerationDelta delta) = 0;
  // Exactly once, last. OK: every choice had a delta with `finish`.
  virtual void OnEnd(const absl::Status& status, const GenerationUsage& usage) = 0;
};

}  // namespace fathom::master
