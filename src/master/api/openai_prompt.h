#pragma once

// The inputs of OpenAI's requests: messages and tools of a chat, prompts of a completion.

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "master/api/fields.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// Reads messages, tools, tool_choice, parallel_tool_calls, chat_template_kwargs and
// reasoning_effort into `request`, whose model is set. `body` is the text the fields were parsed
// from: the template sees messages and tools as the client wrote them, with its key order and its
// numbers (see openai_messages.h for what is changed).
void ReadChat(Fields& fields, std::string_view body, GenerationRequest& request);

// Reads prompt: a text, token ids, or a list of either; at most `prompts_max` of them.
std::vector<PromptInput> ReadPrompts(Fields& fields, size_t prompts_max);

}  // namespace fathom::master
