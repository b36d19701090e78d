#pragma once

// The structs of a request that both sides share: what to sample, when to stop, what to report.
// Plain data; the meaning and order of the sampling fields is the contract of docs/architecture.md
// ("Sampling").

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fathom {

using TokenId = int32_t;

struct LogitBias {
  TokenId token = 0;
  float bias = 0;  // added to the logit; [-100, 100]
};

struct SamplingParams {
  float temperature = 1;         // >= 0; 0 is argmax, lowest id on ties
  int32_t top_k = 0;             // 0: off
  float top_p = 1;               // (0, 1]
  float min_p = 0;               // [0, 1]
  float presence_penalty = 0;    // [-2, 2], output only
  float frequency_penalty = 0;   // [-2, 2], output only
  float repetition_penalty = 1;  // > 0, prompt and output
  std::vector<LogitBias> logit_bias;
  uint64_t seed = 0;  // always set by the master, so that a migrated request goes on alike
};

struct StopConditions {
  int32_t max_tokens = 0;  // new tokens a choice may emit; > 0
  int32_t min_tokens = 0;  // end-of-sequence and stop ids are masked before
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;
};

struct LogprobParams {
  bool output = false;            // report the chosen token's logprob
  int32_t output_top = 0;         // and that many best ones; [0, 20]
  std::optional<int32_t> prompt;  // report prompt logprobs with that many best ones
};

enum class GrammarKind : uint8_t { kJsonSchema, kRegex, kLark };

struct GrammarSpec {
  GrammarKind kind = GrammarKind::kJsonSchema;
  std::string source;
};

enum class FinishReason : uint8_t {
  kNone,    // still running
  kStop,    // end of sequence, a stop token id, or (master) a stop string
  kLength,  // max_tokens or the model's context
  kCancelled,
  kError,
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
};

// Log-softmax of the raw logits at one position.
struct PositionLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // best first; ties by lower id
};

}  // namespace fathom
