#pragma once

// POST /tokenize and /detokenize, in the form vLLM gave them: a prompt or a chat to its token ids,
// exactly as generation reads it, and ids to text. The work is done on the CPU pool.

#include <memory>

#include "absl/status/statusor.h"
#include "master/api/http_exchange.h"
#include "master/serving/serving.h"

namespace fathom::master {

// The answers' bodies. Pure; any thread.
absl::StatusOr<std::string> TokenizeBody(std::string_view body, const Catalog& catalog);
absl::StatusOr<std::string> DetokenizeBody(std::string_view body, const Catalog& catalog);

using BodyFunction = absl::StatusOr<std::string> (*)(std::string_view, const Catalog&);

// Answers with what `function` makes of the body. On the exchange's strand.
void AnswerOnPool(BodyFunction function, Serving& serving, HttpCall call,
                  const std::shared_ptr<HttpExchange>& exchange);

}  // namespace fathom::master
