#pragma once

// `tools` and `tool_choice` of a chat: what the template shows the model, and which calls its
// answer may hold. Pure; any thread.

#include <boost/json/array.hpp>
#include <string>
#include <string_view>

#include "master/api/fields.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

struct ChatTools {
  std::string shown_json;  // for the template; empty for none
  ToolUse use;
};

// Reads tools, tool_choice and parallel_tool_calls. `body` is the text `fields` was parsed from:
// tools reach the template as their own bytes where they can be cut out.
ChatTools ReadTools(Fields& fields, std::string_view body);

// The same from parts: `choice` is auto, none, required or the name of a function; empty is auto.
// INVALID_ARGUMENT names `tools` or `tool_choice`.
absl::StatusOr<ChatTools> ReadTools(std::string_view tools_json, std::string_view choice,
                                    bool parallel);

}  // namespace fathom::master
