#pragma once

// Everything a request must satisfy before the engine takes it, checked in one place. Thread
// safety: pure.

#include "absl/status/status.h"
#include "worker/engine/engine.h"

namespace fathom::worker {

inline constexpr size_t kMaxChoices = 128;
inline constexpr size_t kMaxIdBytes = 256;
inline constexpr size_t kMaxGrammarBytes = 256 * 1024;

// INVALID_ARGUMENT or UNIMPLEMENTED with what is wrong. `has_grammars`: grammars can be compiled.
absl::Status ValidateRequest(const EngineRequest& request, const EngineOptions& options,
                             bool has_grammars);

// Options that contradict themselves or each other.
absl::Status ValidateOptions(const EngineOptions& options);

// Tokens a choice of the request may have in all: prompt and output, within the model's context.
int32_t MaxLength(const EngineRequest& request, const EngineOptions& options);

}  // namespace fathom::worker
