#pragma once

// Between the link's messages and the engine's structs. Pure functions. What a master sends is
// checked here, so that the engine sees only sane requests.

#include <cstdint>

#include "absl/status/statusor.h"
#include "fathom/v1/link.pb.h"
#include "worker/engine/request.h"

namespace fathom::worker {

inline constexpr int kLinkProtocol = 1;

// INVALID_ARGUMENT names the field that is out of its range. `now_ns` is the engine's clock.
absl::StatusOr<EngineRequest> FromMessage(const v1::Submit& message, int64_t now_ns);

v1::StepOutput ToMessage(const SequenceOutput& output);

v1::EngineState ToMessage(EngineState state);

}  // namespace fathom::worker
