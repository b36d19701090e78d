#include "cli/load/records.h"

#include <algorithm>
#include <boost/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr size_t kEntriesMax = 1'000'000;
constexpr int64_t kLengthMax = 1 << 24;
constexpr double kTimeMaxMs = 1e12;

// Calls `read` with every line's object; gathers what it returns.
template <typename Entry, typename Read>
absl::StatusOr<std::vector<Entry>> ParseLines(std::string_view jsonl, const Read& read) {
  std::vector<Entry> entries;
  for (int64_t number = 1; !jsonl.empty(); ++number) {
    const size_t end = jsonl.find('\n');
    const std::string_view line = jsonl.substr(0, end);
    jsonl.remove_prefix(end == std::string_view::npos ? jsonl.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    boost::system::error_code error;
    const json::value value = json::parse(line, error);
    if (error || !value.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": no JSON object"));
    }
    absl::StatusOr<Entry> entry = read(value.get_object());
    if (!entry.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", entry.status().message()));
    }
    if (entries.size() == kEntriesMax) {
      return absl::InvalidArgumentError(absl::StrCat("more than ", kEntriesMax, " entries"));
    }
    entries.push_back(*std::move(entry));
  }
  if (entries.empty()) return absl::InvalidArgumentError("no entries");
  return entries;
}

absl::StatusOr<std::optional<double>> NumberAt(const json::object& object, std::string_view name,
                                               double max) {
  const json::value* found = object.if_contains(name);
  if (found == nullptr) return std::nullopt;
  if (!found->is_number())
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), " is no number"));
  const auto number = found->to_number<double>();
  if (!(number >= 0 && number <= max)) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), " is out of range"));
  }
  return number;
}

absl::StatusOr<std::optional<int32_t>> LengthAt(const json::object& object, std::string_view name) {
  ASSIGN_OR_RETURN(const auto number, NumberAt(object, name, kLengthMax));
  if (!number) return std::nullopt;
  return static_cast<int32_t>(*number);
}

absl::StatusOr<DatasetEntry> ReadDatasetEntry(const json::object& object) {
  DatasetEntry entry;
  const json::value* messages = object.if_contains("messages");
  const json::value* prompt = object.if_contains("prompt");
  if (messages != nullptr && messages->is_array() && !messages->get_array().empty()) {
    entry.messages_json = json::serialize(*messages);
  } else if (prompt != nullptr && prompt->is_string() && !prompt->get_string().empty()) {
    entry.prompt = std::string(prompt->get_string());
  } else {
    return absl::InvalidArgumentError("neither messages (an array) nor prompt (a string)");
  }
  for (const std::string_view name : {"output_length", "max_tokens"}) {
    ASSIGN_OR_RETURN(const auto length, LengthAt(object, name));
    if (length) entry.output_len = *length;
  }
  return entry;
}

absl::StatusOr<TraceEntry> ReadTraceEntry(const json::object& object) {
  TraceEntry entry;
  ASSIGN_OR_RETURN(const auto at_ms, NumberAt(object, "timestamp", kTimeMaxMs));
  ASSIGN_OR_RETURN(const auto input, LengthAt(object, "input_length"));
  ASSIGN_OR_RETURN(const auto output, LengthAt(object, "output_length"));
  if (!at_ms || !input || !output) {
    return absl::InvalidArgumentError("needs timestamp, input_length and output_length");
  }
  entry.at_ms = *at_ms;
  entry.input_len = std::max(*input, 1);
  entry.output_len = std::max(*output, 1);
  const json::value* ids = object.if_contains("hash_ids");
  if (ids == nullptr) return entry;
  if (!ids->is_array()) return absl::InvalidArgumentError("hash_ids is no array");
  for (const json::value& id : ids->get_array()) {
    if (!id.is_int64()) return absl::InvalidArgumentError("hash_ids holds what is no integer");
    entry.hash_ids.push_back(id.get_int64());
  }
  return entry;
}

}  // namespace

absl::StatusOr<std::vector<DatasetEntry>> ParseDataset(std::string_view jsonl) {
  return ParseLines<DatasetEntry>(jsonl, ReadDatasetEntry);
}

absl::StatusOr<std::vector<TraceEntry>> ParseTrace(std::string_view jsonl) {
  ASSIGN_OR_RETURN(std::vector<TraceEntry> entries, ParseLines<TraceEntry>(jsonl, ReadTraceEntry));
  std::stable_sort(entries.begin(), entries.end(),
                   [](const TraceEntry& a, const TraceEntry& b) { return a.at_ms < b.at_ms; });
  const double first_ms = entries.front().at_ms;
  for (TraceEntry& entry : entries) entry.at_ms -= first_ms;
  return entries;
}

}  // namespace fathom::cli
