#pragma once

// What a request allows of the output, as one grammar for the worker: the answer's own grammar, the
// tool calls it must or may hold in the model's format, and the reasoning that may come before
// either. Pure; any thread.

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/domain.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// Whether the output may begin with reasoning, as the end of the rendered prompt has it.
enum class ReasoningStart : uint8_t {
  kNever,     // the model does not reason, or the prompt closed the tag
  kMayBegin,  // if the model opens the tag
  kBegun,     // the prompt opened the tag
};

ReasoningStart FindReasoningStart(const ServedModelInfo& model, std::string_view prompt);

struct Constraint {
  GrammarSpec grammar;
  std::string_view field;  // of the request, which is to blame when it does not compile
};

// Nothing where anything goes. White space in JSON is bounded, so that a model cannot spin in it. A
// Lark grammar of the client's describes the whole output, reasoning included.
absl::StatusOr<std::optional<Constraint>> BuildConstraint(const GenerationRequest& request,
                                                          ReasoningStart start);

}  // namespace fathom::master
