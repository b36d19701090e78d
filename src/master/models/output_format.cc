#include "master/models/output_format.h"

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

bool HasBoth(const text::Tokenizer& tokenizer, std::string_view begin, std::string_view end) {
  return tokenizer.TokenToId(begin).has_value() && tokenizer.TokenToId(end).has_value();
}

// `found` where the choice is left to us.
absl::StatusOr<bool> Wanted(std::string_view what, std::string_view choice, std::string_view style,
                            bool found) {
  if (choice.empty() || choice == "auto") return found;
  if (choice == "none") return false;
  if (choice == style) return true;
  return absl::InvalidArgumentError(absl::StrCat(ToAbsl(what), " must be auto, none or ",
                                                 ToAbsl(style), ", not '", ToAbsl(choice), "'"));
}

}  // namespace

absl::StatusOr<OutputFormat> ChooseOutputFormat(const OutputFormatChoice& choice,
                                                const text::Tokenizer& tokenizer) {
  OutputFormat format;
  const auto thinks = Wanted("reasoning_parser", choice.reasoning, "think",
                             HasBoth(tokenizer, kThinkBegin, kThinkEnd));
  if (!thinks.ok()) return thinks.status();
  const auto calls = Wanted("tool_parser", choice.tools, "hermes",
                            HasBoth(tokenizer, kToolCallBegin, kToolCallEnd));
  if (!calls.ok()) return calls.status();
  if (*thinks) format.reasoning = ReasoningStyle::kThink;
  if (*calls) format.tools = ToolStyle::kHermes;
  return format;
}

}  // namespace fathom::master
