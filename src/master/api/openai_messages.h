#pragma once

// The messages of a chat, from what OpenAI's clients write to what templates read: parts of text
// are joined, the developer is the system where the template knows no developer, and the arguments
// of earlier tool calls, JSON text with OpenAI, become the object that templates expect. All else
// reaches the template as the client's own bytes. Pure; any thread.

#include <boost/json/array.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "master/models/catalog.h"

namespace fathom::master {

// `raw` is the text of `messages`. INVALID_ARGUMENT names `messages` and the message.
absl::StatusOr<std::string> RewriteMessages(const boost::json::array& messages,
                                            std::string_view raw, const ServedModelInfo& model);

// The same from text.
absl::StatusOr<std::string> RewriteMessages(std::string_view messages_json,
                                            const ServedModelInfo& model);

}  // namespace fathom::master
