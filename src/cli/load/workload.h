#pragma once

// What is asked: the prompt and the wanted length of request number i, a pure function of the
// options and i, so that a million requests take no memory and a run can be repeated. Thread
// safety: immutable.

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/load/records.h"
#include "common/domain.h"

namespace fathom::cli {

struct LengthRange {
  int32_t low = 0;
  int32_t high = 0;  // included
};

// "128" or "100:200". INVALID_ARGUMENT for anything else, or for less than 1.
absl::StatusOr<LengthRange> ParseLengthRange(std::string_view text);

using TokenPrompt = std::vector<TokenId>;
struct TextPrompt {
  std::string text;
};
struct ChatPrompt {
  std::string messages_json;  // array
};

struct LoadItem {
  std::variant<TokenPrompt, TextPrompt, ChatPrompt> prompt;
  int32_t output_len = 0;  // tokens at most; 0: what the server says
};

struct WorkloadOptions {
  LengthRange input{128, 128};   // tokens of random prompts, after the prefix
  LengthRange output{128, 128};  // where no record says otherwise
  int32_t prefix_len = 0;        // tokens of a prefix that random prompts share
  int32_t num_prefixes = 1;      // how many there are; each request has one of them
  bool text = false;  // random prompts as words, about one token each, instead of token ids
  uint64_t seed = 0;
  std::vector<DatasetEntry> dataset;  // at most one of the two
  std::vector<TraceEntry> trace;
};

class Workload {
 public:
  explicit Workload(WorkloadOptions options) : options_(std::move(options)) {}

  // Records come in their order, again and again.
  LoadItem Make(uint64_t index) const;
  // Empty unless there is a trace.
  const std::vector<TraceEntry>& trace() const { return options_.trace; }

 private:
  LoadItem OfTokens(TokenPrompt tokens, int32_t output_len) const;
  TokenPrompt RandomPrompt(uint64_t index) const;
  TokenPrompt TracePrompt(const TraceEntry& entry, uint64_t index) const;

  const WorkloadOptions options_;
};

}  // namespace fathom::cli
