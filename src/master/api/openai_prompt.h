#pragma once

// The inputs of OpenAI's requests: messages and tools of a chat, prompts of a completion.

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "master/api/fields.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// Reads messages, tools, tool_choice and chat_template_kwargs. `body` is the text the fields were
// parsed from: the template sees messages and tools as the client wrote them, with its key order
// and its numbers. Content given as text parts becomes one string, parts joined by newlines.
ChatPrompt ReadChatPrompt(Fields& fields, std::string_view body);

// Reads prompt: a text, token ids, or a list of either; at most `prompts_max` of them.
std::vector<PromptInput> ReadPrompts(Fields& fields, size_t prompts_max);

}  // namespace fathom::master
