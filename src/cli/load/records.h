#pragma once

// Recorded traffic: prompts of a data set, or a trace of lengths and arrival times. JSON Lines, one
// request a line; unknown members are ignored, since such files carry much. Pure.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fathom::cli {

// {"messages": [...]} or {"prompt": "..."}, either with "output_length" or "max_tokens".
struct DatasetEntry {
  std::string messages_json;  // one of the two
  std::string prompt;
  int32_t output_len = 0;  // 0: not said
};

// {"timestamp": ms, "input_length": N, "output_length": N, "hash_ids": [...]}, the form of the
// published Mooncake traces. A hash id names the content of a block of kTraceBlockTokens tokens:
// prompts that begin with the same ids share that prefix.
struct TraceEntry {
  double at_ms = 0;  // since the first entry
  int32_t input_len = 0;
  int32_t output_len = 0;
  std::vector<int64_t> hash_ids;
};
inline constexpr int32_t kTraceBlockTokens = 512;

// INVALID_ARGUMENT names the line. Empty lines are skipped; a file without entries is an error.
absl::StatusOr<std::vector<DatasetEntry>> ParseDataset(std::string_view jsonl);
// Likewise; arrivals come in ascending order whatever the file's.
absl::StatusOr<std::vector<TraceEntry>> ParseTrace(std::string_view jsonl);

}  // namespace fathom::cli
