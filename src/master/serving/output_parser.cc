#include "master/serving/output_parser.h"

#include <variant>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "master/serving/hermes_parser.h"
#include "master/serving/think_parser.h"

namespace fathom::master {
namespace {

constexpr size_t kIdHexDigits = 24;

// The same wherever the request goes on.
std::string CallId(const std::string& request, int32_t choice, int32_t call) {
  const std::string digest = Sha256Hex(absl::StrCat("call\n", request, "\n", choice, "\n", call));
  return absl::StrCat("call_", digest.substr(0, kIdHexDigits));
}

}  // namespace

OutputParsers MakeOutputParsers(const GenerationRequest& request, ReasoningStart start,
                                int32_t choice) {
  OutputParsers parsers;
  if (request.include_raw_output || !std::holds_alternative<ChatPrompt>(request.prompt)) {
    return parsers;
  }
  if (start != ReasoningStart::kNever) {
    parsers.reasoning = std::make_unique<ThinkParser>(start == ReasoningStart::kBegun);
  }
  if (request.tool_use.choice != ToolChoice::kNone &&
      request.model->output_format.tools == ToolStyle::kHermes) {
    parsers.tools = std::make_unique<HermesParser>(
        [id = request.id, choice](int32_t call) { return CallId(id, choice, call); });
  }
  return parsers;
}

}  // namespace fathom::master
