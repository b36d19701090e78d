#pragma once

// Evaluation data: one JSON object a line, {"id", "task", "messages", optional "tools",
// "expected"}, as models/tiny/eval.jsonl.

#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fathom::cli {

struct Example {
  std::string id;
  std::string task;
  boost::json::value messages;
  boost::json::value tools;  // null: none
  std::string expected;
};

// INVALID_ARGUMENT names the line; no example at all is an error too.
absl::StatusOr<std::vector<Example>> ParseExamples(std::string_view jsonl);

// At most `limit` of them (0: all), spread evenly over the tasks, in their order.
std::vector<Example> TakeEvenly(std::vector<Example> examples, size_t limit);

// Exact match, but for white space around.
bool IsMatch(std::string_view answer, std::string_view expected);

}  // namespace fathom::cli
