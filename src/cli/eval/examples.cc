#include "cli/eval/examples.h"

#include <algorithm>
#include <boost/json.hpp>
#include <map>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

absl::StatusOr<Example> ParseExample(std::string_view line) {
  boost::system::error_code error;
  json::value value = json::parse(line, error);
  if (error || !value.is_object()) return absl::InvalidArgumentError("not a JSON object");
  json::object& object = value.get_object();
  const auto text = [&](std::string_view name) -> absl::StatusOr<std::string> {
    const json::value* found = object.if_contains(name);
    if (found == nullptr || !found->is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("'", ToAbsl(name), "' must be a text"));
    }
    return std::string(found->get_string());
  };
  Example example;
  ASSIGN_OR_RETURN(example.id, text("id"));
  ASSIGN_OR_RETURN(example.task, text("task"));
  ASSIGN_OR_RETURN(example.expected, text("expected"));
  json::value* messages = object.if_contains("messages");
  if (messages == nullptr || !messages->is_array() || messages->get_array().empty()) {
    return absl::InvalidArgumentError("'messages' must be a list of messages");
  }
  example.messages = std::move(*messages);
  if (json::value* tools = object.if_contains("tools"); tools != nullptr) {
    example.tools = std::move(*tools);
  }
  return example;
}

}  // namespace

absl::StatusOr<std::vector<Example>> ParseExamples(std::string_view jsonl) {
  std::vector<Example> examples;
  for (int number = 1; !jsonl.empty(); ++number) {
    const size_t end = jsonl.find('\n');
    const std::string_view line = jsonl.substr(0, end);
    jsonl.remove_prefix(end == std::string_view::npos ? jsonl.size() : end + 1);
    if (absl::StripAsciiWhitespace(ToAbsl(line)).empty()) continue;
    absl::StatusOr<Example> example = ParseExample(line);
    if (!example.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", example.status().message()));
    }
    examples.push_back(*std::move(example));
  }
  if (examples.empty()) return absl::InvalidArgumentError("it holds no example");
  return examples;
}

std::vector<Example> TakeEvenly(std::vector<Example> examples, size_t limit) {
  if (limit == 0 || limit >= examples.size()) return examples;
  // The k-th of every task comes before the k+1-th of any.
  std::map<std::string, size_t> seen;
  std::vector<size_t> rank(examples.size());
  for (size_t i = 0; i < examples.size(); ++i) rank[i] = seen[examples[i].task]++;
  std::vector<size_t> order(examples.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rank[a] < rank[b]; });
  order.resize(limit);
  std::sort(order.begin(), order.end());
  std::vector<Example> taken;
  taken.reserve(limit);
  for (const size_t i : order) taken.push_back(std::move(examples[i]));
  return taken;
}

bool IsMatch(std::string_view answer, std::string_view expected) {
  return absl::StripAsciiWhitespace(ToAbsl(answer)) == absl::StripAsciiWhitespace(ToAbsl(expected));
}

}  // namespace fathom::cli
