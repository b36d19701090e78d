#pragma once

// Requests in the form of each protocol. Pure.

#include <string>
#include <string_view>

#include "cli/load/transport.h"
#include "fathom/v1/inference.pb.h"

namespace fathom::cli {

// A greedy request, streamed with the usage at its end unless it is unary. A chat goes to
// chat/completions, and so does text when `as_chat`; token ids and text to completions.
struct OpenAiRequest {
  std::string_view target;
  std::string body;
};
OpenAiRequest ToOpenAi(const LoadItem& item, const RequestOptions& options, bool as_chat);

v1::GenerateRequest ToGrpc(const LoadItem& item, const RequestOptions& options);

}  // namespace fathom::cli
